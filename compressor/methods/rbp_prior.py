"""Priors of RBP (reconstruction): what pulls an unneeded channel's noise to a Dirac at 0, in closed form.

The paper says "Dirac-like" and no more could be verified. Each prior is one class with `kl`, in nats per channel, for
the law t ~ N(1 - r, r (1 - r)) of `rbp_noise`:

    dirac      N(0, v), v -> 0:      (1 - r) / (2 v) - ln(r (1 - r)) / 2 + ln(v) / 2 - 1 / 2
               linear in the expected number of kept channels, and a barrier at both ends
    same-law   the law itself at r0: [ln(r0 (1-r0) / (r (1-r))) + (r (1-r) + (r0-r)^2) / (r0 (1-r0)) - 1] / 2
    bernoulli  keep masks:           (1-r) ln((1-r) / (1-r0)) + r ln(r / r0)

With v -> 0 or r0 -> 1 all three become a Dirac at 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["PRIORS", "BernoulliPrior", "DiracPrior", "Prior", "SameLawPrior", "slope"]


class Prior(Protocol):
    """What the recursion asks of a prior."""

    @property
    def resting_rate(self) -> float:
        """Rate of a channel that nothing needs: where the divergence is least."""

    def kl(self, rate: Tensor) -> Tensor:
        """Returns KL(noise of this rate || prior), nats, of the rates' shape; rates in (0, 1)."""


@dataclass(frozen=True)
class DiracPrior:
    """N(0, variance): a Dirac at 0 in the limit.

    >>> round(1 - DiracPrior(0.01).resting_rate, 5)
    0.0099
    """

    variance: float

    @property
    def resting_rate(self) -> float:
        """1 - u, u = ((1 + 2v) - sqrt((1 + 2v)^2 - 4v)) / 2, nearly v."""
        total = 1 + 2 * self.variance
        return 1 - float(total - (total**2 - 4 * self.variance) ** 0.5) / 2

    def kl(self, rate: Tensor) -> Tensor:
        """Returns (1-r)/(2v) - ln(r(1-r))/2 + ln(v)/2 - 1/2; its slope is -1/(2v) + (1/(1-r) - 1/r)/2."""
        barrier = -0.5 * torch.log(rate * (1 - rate))
        return (1 - rate) / (2 * self.variance) + barrier + 0.5 * math.log(self.variance) - 0.5


@dataclass(frozen=True)
class SameLawPrior:
    """The noise law itself, at a rate near 1."""

    rate: float

    @property
    def resting_rate(self) -> float:
        """The prior's own rate."""
        return self.rate

    def kl(self, rate: Tensor) -> Tensor:
        """Returns the divergence of two Gaussians with a Bernoulli's moments."""
        own, variance = rate * (1 - rate), self.rate * (1 - self.rate)
        return 0.5 * (torch.log(variance / own) + (own + (self.rate - rate) ** 2) / variance - 1)


@dataclass(frozen=True)
class BernoulliPrior:
    """A keep mask that is nearly always 0; the divergence is that of the two masks."""

    rate: float

    @property
    def resting_rate(self) -> float:
        """The prior's own rate."""
        return self.rate

    def kl(self, rate: Tensor) -> Tensor:
        """Returns the divergence of two Bernoulli masks."""
        kept = 1 - rate
        return kept * torch.log(kept / (1 - self.rate)) + rate * torch.log(rate / self.rate)


# Name of the setting -> the prior, made from (variance v, rate r0).
PRIORS: dict[str, Callable[[float, float], Prior]] = {
    "dirac": lambda variance, _: DiracPrior(variance),
    "same-law": lambda _, rate: SameLawPrior(rate),
    "bernoulli": lambda _, rate: BernoulliPrior(rate),
}


def slope(prior: Prior, rate: float) -> float:
    """Returns |dKL/da| of a channel at a rate r = sigmoid(a)."""
    logit = torch.tensor(rate, dtype=torch.float64).logit().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.kl(torch.sigmoid(logit)), logit)
    return abs(float(gradient))
