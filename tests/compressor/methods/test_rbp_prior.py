"""The priors of RBP (reconstruction): closed forms against sampling and finite differences."""

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from compressor.methods.rbp_prior import PRIORS, BernoulliPrior, DiracPrior, SameLawPrior, slope

RATES = [0.05, 0.5, 0.95]


def law(rate: float) -> Normal:
    r = torch.tensor(rate, dtype=torch.float64)
    return Normal(1 - r, (r * (1 - r)).sqrt())


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("variance", [0.1, 0.01])
def test_03_closed_form_equals_sampling(rate: float, variance: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        t = law(rate).sample((1_000_000,))
    prior = Normal(torch.zeros((), dtype=torch.float64), variance**0.5)
    sampled = (law(rate).log_prob(t) - prior.log_prob(t)).mean().item()
    closed = DiracPrior(variance).kl(torch.tensor(rate, dtype=torch.float64)).item()
    assert closed == pytest.approx(sampled, rel=0.01)


@pytest.mark.parametrize("rate", RATES)
def test_the_alternatives_are_what_they_say(rate: float) -> None:
    r = torch.tensor(rate, dtype=torch.float64)
    same = kl_divergence(law(rate), law(0.97)).item()
    assert SameLawPrior(0.97).kl(r).item() == pytest.approx(same)
    # Of keep masks: 1 with probability 1 - r.
    masks = kl_divergence(Bernoulli(1 - r), Bernoulli(1 - torch.tensor(0.97, dtype=torch.float64))).item()
    assert BernoulliPrior(0.97).kl(r).item() == pytest.approx(masks)


@pytest.mark.parametrize("name", PRIORS)
def test_03_divergence_is_never_below_zero_and_least_at_the_resting_rate(name: str) -> None:
    prior = PRIORS[name](0.01, 0.99)
    rates = torch.linspace(1e-4, 1 - 1e-4, 20_001, dtype=torch.float64)
    values = prior.kl(rates)
    assert values.min() >= -1e-12
    assert rates[values.argmin()].item() == pytest.approx(prior.resting_rate, abs=1e-4)


@pytest.mark.parametrize("rate", RATES)
def test_03_slope_is_that_of_the_formula_and_of_differences(rate: float) -> None:
    prior, v = DiracPrior(0.01), 0.01
    r = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(prior.kl(r), r)
    assert gradient.item() == pytest.approx(-1 / (2 * v) + 0.5 * (1 / (1 - rate) - 1 / rate))
    with torch.no_grad():
        difference = (prior.kl(r + 1e-6) - prior.kl(r - 1e-6)) / 2e-6
    assert gradient.item() == pytest.approx(difference.item(), rel=1e-6)
    assert slope(prior, rate) == pytest.approx(abs(gradient.item()) * rate * (1 - rate))
