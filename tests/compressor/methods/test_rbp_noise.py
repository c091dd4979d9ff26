"""The noise law of RBP (reconstruction): moments and gradient."""

import math

import pytest
import torch

from compressor.methods.rbp_noise import LEAST_RATE, BernoulliMoments

LAW = BernoulliMoments()
SAMPLES = 200_000


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_02_moments_are_those_of_a_keep_mask(rate: float) -> None:
    normal = torch.randn(SAMPLES, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = LAW.sample(torch.tensor([rate], dtype=torch.float64).logit(), normal)
    error = math.sqrt(rate * (1 - rate) / SAMPLES)
    assert t.mean().item() == pytest.approx(1 - rate, abs=3 * error)
    # The variance of a Gaussian's sample variance is 2 σ⁴ / n.
    assert t.var().item() == pytest.approx(rate * (1 - rate), abs=3 * math.sqrt(2 / SAMPLES) * rate * (1 - rate))
    fourth = math.sqrt((t.square().var() / SAMPLES).item())
    assert t.square().mean().item() == pytest.approx(1 - rate, abs=3 * fourth)


def test_the_gradient_of_a_sample_is_that_of_the_formula() -> None:
    rate = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    normal = torch.tensor([[0.7, -1.2, 0.3]], dtype=torch.float64)
    logits = rate.logit().requires_grad_()
    (gradient,) = torch.autograd.grad(LAW.sample(logits, normal).sum(), logits)
    slope = -1 + normal[0] * (1 - 2 * rate) / (2 * (rate * (1 - rate)).sqrt())
    assert torch.allclose(gradient, slope * rate * (1 - rate))


def test_the_ends_are_diracs() -> None:
    normal = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([-math.inf, math.inf])
    assert LAW.mean(ends).tolist() == [1.0, 0.0]
    none, all_ = LAW.sample(ends, normal).std(0).tolist()
    assert none == pytest.approx(math.sqrt(LEAST_RATE), rel=0.1)
    assert all_ == pytest.approx(math.sqrt(LEAST_RATE), rel=0.1)
