"""The symmetric fixed-point quantiser: weights become whole numbers times a step.

    levels = sign(w) * min(floor(|w|/D + 1/2), h)      h = 2^(bits-1) - 1, so 2^bits - 1 levels, 0 among them
    Q(w)   = levels * D                                 computed in float32, as DequantizeLinear does

A weight that is 0 stays exactly 0. Each weight of a layer, or of one output channel, shares one step D; a step may be
restricted to powers of two, for hardware that only shifts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.quantise.step import max_level, optimal_steps, power_of_two_steps

__all__ = ["MAX_BITS", "MIN_BITS", "FixedPoint", "check_bits", "dequantise", "q_format", "quantise", "to_levels"]

MIN_BITS = 2
MAX_BITS = 8


@dataclass(frozen=True)
class FixedPoint:
    """One quantised tensor.

    Attributes:
        levels: Whole numbers -h .. h, int8, of the weight's shape.
        step: float32: () for the whole tensor, or (K,) one for each place along `axis`.
        bits: Of a word, 2 to 8.
        axis: Which dimension has its own steps; None where one step serves all.
    """

    levels: Tensor
    step: Tensor
    bits: int
    axis: int | None = None


def check_bits(bits: int) -> None:
    """Raises ValueError for a word length that the quantiser does not have."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits; fixed-point weights have {MIN_BITS} to {MAX_BITS}")


def quantise(weight: Tensor, bits: int, *, axis: int | None = None, pow2: bool = False) -> FixedPoint:
    """Returns the weight in fixed point with the steps of least squared error.

    >>> fixed = quantise(torch.tensor([[0.0, 0.5, -1.0, 0.24]]), 3)
    >>> fixed.levels.tolist(), round(float(fixed.step), 3)
    ([[0, 2, -3, 1]], 0.303)

    Args:
        weight: Any shape, finite; zeros are taken for pruned and do not take part in the choice of the step.
        bits: 2 to 8.
        axis: Dimension whose places get a step each, such as 0 for output channels; None for one step.
        pow2: Only steps 2^-n.

    Raises:
        ValueError: `bits` is out of range, or a weight is not finite.
    """
    check_bits(bits)
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is NaN or infinite, which has no fixed-point form; train or load it again")
    rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).reshape(weight.shape[axis], -1)
    steps = (power_of_two_steps if pow2 else optimal_steps)(rows, bits).to(torch.float32)
    step = steps[0] if axis is None else steps
    return FixedPoint(to_levels(weight.detach().cpu(), step, bits, axis), step, bits, axis)


def to_levels(weight: Tensor, step: Tensor, bits: int, axis: int | None) -> Tensor:
    """Returns the nearest levels, int8, of a weight for given steps on its device; halves go away from 0."""
    h = max_level(bits)
    wide = weight.detach().to(torch.float64)
    sizes = (wide.abs() / _spread(step, weight, axis) + 0.5).floor().clamp(max=h)
    return (wide.sign() * sizes).to(torch.int8)


def dequantise(fixed: FixedPoint) -> Tensor:
    """Returns the weights that the levels stand for, float32."""
    return fixed.levels.to(torch.float32) * _spread(fixed.step, fixed.levels, fixed.axis)


def q_format(fixed: FixedPoint) -> str | None:
    """Returns Qm.n: m bits before the point, n behind it, the sign apart; None for steps that are no power of two.

    Of several steps the coarsest and the finest are given. m is below 0 where all weights are small.

    >>> q_format(FixedPoint(torch.tensor([7], dtype=torch.int8), torch.tensor(0.125), 4))
    'Q0.3'
    """
    exponents = [math.frexp(step) for step in fixed.step.reshape(-1).tolist()]
    if any(mantissa != 0.5 for mantissa, _ in exponents):
        return None
    behind = sorted({1 - exponent for _, exponent in exponents})
    words = [f"Q{fixed.bits - 1 - n}.{n}" for n in behind]
    return words[0] if len(words) == 1 else f"{words[0]} to {words[-1]}"


def _spread(step: Tensor, weight: Tensor, axis: int | None) -> Tensor:
    """The steps in a shape that goes along with the weight."""
    if axis is None:
        return step
    shape = [1] * weight.dim()
    shape[axis] = -1
    return step.reshape(shape)
