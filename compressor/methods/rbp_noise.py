"""The noise law of RBP (reconstruction): what multiplies a channel, as a function of its drop rate.

The paper's law could not be verified. This one is a Gaussian with the mean and variance of a Bernoulli keep mask of
probability 1 - r, as in fast dropout (Wang & Manning, ICML 2013):

    t = (1 - r) + sqrt(r (1 - r)) * e,   e ~ N(0, 1)      E t = 1 - r,   Var t = r (1 - r),   E t^2 = 1 - r

r -> 0 is a Dirac at 1, r -> 1 a Dirac at 0. Another law is another class with these two functions, and its own priors.
"""

import torch
from torch import Tensor

__all__ = ["LEAST_RATE", "BernoulliMoments"]

# Rates are kept in [LEAST_RATE, 1 - LEAST_RATE]: beyond, the standard deviation has no finite gradient.
LEAST_RATE = 1e-4


class BernoulliMoments:
    """Gaussian noise with the moments of a Bernoulli keep mask; a rate is given by its logit a, r = sigmoid(a)."""

    def mean(self, logits: Tensor) -> Tensor:
        """Returns E t = 1 - r, of any shape; 1 exactly for a logit of -inf."""
        return torch.sigmoid(-logits)

    def sample(self, logits: Tensor, normal: Tensor) -> Tensor:
        """Returns t, differentiable by the rate: dt/dr = -1 + e (1 - 2r) / (2 sqrt(r (1 - r))).

        Args:
            logits: (units,).
            normal: e, (samples, units) standard normal numbers.
        """
        rate = torch.sigmoid(logits).clamp(LEAST_RATE, 1 - LEAST_RATE)
        return (1 - rate) + (rate * (1 - rate)).sqrt() * normal
