"""The step of a symmetric quantiser that loses least: argmin over D of ||w - Q(w)||².

    Q(w) = sign(w) * D * min(floor(|w|/D + 1/2), h),     h = 2^(bits-1) - 1

For a fixed choice of levels z the best step is D = sum(|w| z) / sum(z²), for a fixed step the best levels are the
nearest; taking turns never raises the error and ends in a stationary point. There are many of them with many levels, so
the turns start at the best of a coarse grid of steps, and again at the best of a fine grid around where they ended.
(Anwar, Hwang, Sung: arXiv 1512.08571, and the group's papers on fixed point; the formulae are a reconstruction.)

With |w| sorted, the error of a step takes h binary searches instead of a pass over all weights.
"""

import torch
from torch import Tensor

__all__ = ["max_level", "optimal_steps", "power_of_two_steps"]

# Starting steps, as parts of max|w|/h: with few levels the best step cuts off the largest weights.
_COARSE = tuple(0.945**i for i in range(42))  # 1 down to 0.1
_FINE = tuple(0.96 + 0.0025 * i for i in range(33))
_MAX_TURNS = 200
_SETTLED = 1e-9  # relative change of the step; the specification asks for 1e-6
_WITHOUT_WEIGHTS = 1.0  # step of a row in which nothing is live: any will do
# Powers tried around the best free step; its own neighbours are the nearest two.
_POWERS = (-2, -1, 0, 1, 2)


def max_level(bits: int) -> int:
    """Returns h, the largest of the symmetric levels -h .. h of a word of so many bits.

    >>> [max_level(bits) for bits in (2, 4, 8)]
    [1, 7, 127]
    """
    return int(2 ** (bits - 1)) - 1


def optimal_steps(rows: Tensor, bits: int) -> Tensor:
    """Returns the best step of each row, (R,) float64, at least as good as max|w|/h.

    Args:
        rows: (R, n) weights; zeros are pruned, or cost nothing: they do not take part. A row of zeros gets step 1.
        bits: Of a word, from 2.
    """
    sizes = _Sizes(rows, max_level(bits))
    steps = sizes.largest / sizes.h
    for parts in (_COARSE, _FINE):
        tried = steps[:, None] * torch.tensor(parts, dtype=torch.float64)[None, :]
        steps = sizes.settle(sizes.best(torch.cat([steps[:, None], tried], dim=1)))
    return torch.where(sizes.largest > 0, steps, _WITHOUT_WEIGHTS)


def power_of_two_steps(rows: Tensor, bits: int) -> Tensor:
    """Returns the best step 2^-n of each row, (R,) float64; rows of zeros get 1. Arguments as `optimal_steps`."""
    sizes = _Sizes(rows, max_level(bits))
    near = torch.log2(optimal_steps(rows, bits)).round()
    powers = torch.tensor(_POWERS, dtype=torch.float64)
    steps = sizes.best(torch.exp2(near[:, None] + powers[None, :]))
    return torch.where(sizes.largest > 0, steps, _WITHOUT_WEIGHTS)


class _Sizes:
    """The sizes |w| of each row, sorted, with running sums: what the error of any step follows from."""

    def __init__(self, rows: Tensor, h: int) -> None:
        self.h = h
        sizes = rows.detach().to("cpu", torch.float64).abs().sort(dim=1).values.contiguous()
        self.sizes = sizes
        self.largest = sizes[:, -1]
        zero = sizes.new_zeros(len(sizes), 1)
        self.sums = torch.cat([zero, sizes.cumsum(dim=1)], dim=1)
        self.energy = sizes.square().sum(dim=1)

    def moments(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """sum(|w| z) and sum(z²) of each row for each of its steps: (R, S) -> (R, S), (R, S)."""
        rows, starts = steps.shape
        levels = torch.arange(1, self.h + 1, dtype=torch.float64)
        # |w| has level j or more from (j - 1/2) D on.
        edges = (steps[:, :, None] * (levels - 0.5)).reshape(rows, -1)
        below = torch.searchsorted(self.sizes, edges, side="left")
        above = self.sums[:, -1:] - self.sums.gather(1, below)
        count = (self.sizes.shape[1] - below).to(torch.float64)
        product = above.reshape(rows, starts, -1).sum(dim=2)
        square = (count.reshape(rows, starts, -1) * (2 * levels - 1)).sum(dim=2)
        return product, square

    def settle(self, steps: Tensor) -> Tensor:
        """The stationary points, (R,), that turns from `steps` end in; a step that chooses no level stays."""
        for _ in range(_MAX_TURNS):
            product, square = (moment[:, 0] for moment in self.moments(steps[:, None]))
            turned = torch.where(square > 0, product / square.clamp(min=1.0), steps)
            settled = bool(((turned - steps).abs() <= _SETTLED * turned).all())
            steps = turned
            if settled:
                break
        return steps

    def best(self, steps: Tensor) -> Tensor:
        """The step of least error in each row: (R, S) -> (R,); the first of equals."""
        product, square = self.moments(steps)
        error = self.energy[:, None] - 2 * steps * product + steps.square() * square
        return steps.gather(1, error.argmin(dim=1, keepdim=True))[:, 0]
