"""A kernel whose live taps lie in fewer rows and columns, evenly apart, as a smaller or dilated kernel.

Along one axis with dilation d, taps first, first + g, …, last hold every live one. Keeping only those is exact:

    kernel' = (last - first) / g + 1     dilation' = d * g     pads' = (pad - first * d, pad' - (kernel - 1 - last) * d)

as long as both pads stay 0 or more; where one would not, dead taps are kept at that end. The output keeps its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Narrowed", "narrowed"]


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A smaller convolution that equals a larger one.

    Attributes:
        weight: (K, C, kh', kw').
        pads: Top, left, bottom, right.
        dilations: Down, right.
    """

    weight: npt.NDArray[np.generic]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]


def narrowed(weight: npt.NDArray[np.generic], *, pads: Sequence[int], dilations: Sequence[int]) -> Narrowed | None:
    """Returns the smallest such convolution; None where no tap can go, or all of them are dead.

    Args:
        weight: (K, C, kh, kw), of any number of groups.
        pads: Top, left, bottom, right.
        dilations: Down, right.
    """
    live = (weight != 0).any(axis=(0, 1))
    if not live.any():
        return None
    ways = [
        _axis(np.flatnonzero(live.any(axis=1 - axis)), weight.shape[2 + axis], dilations[axis], pads[axis::2])
        for axis in (0, 1)
    ]
    (rows, top, bottom), (columns, left, right) = ways
    if len(rows) * len(columns) == live.size:
        return None
    steps = [int(taps[1] - taps[0]) if len(taps) > 1 else 1 for taps in (rows, columns)]
    return Narrowed(
        np.ascontiguousarray(weight[:, :, rows][:, :, :, columns]),
        (top, left, bottom, right),
        (dilations[0] * steps[0] if len(rows) > 1 else 1, dilations[1] * steps[1] if len(columns) > 1 else 1),
    )


def _axis(
    live: npt.NDArray[np.intp], size: int, dilation: int, pads: Sequence[int]
) -> tuple[npt.NDArray[np.intp], int, int]:
    """The fewest evenly spaced taps that hold all live ones, and the pads left; the first tap as late as possible."""
    best = np.arange(size)
    for first in range(min(int(live[0]), pads[0] // dilation) + 1):
        latest = max(int(live[-1]), size - 1 - pads[1] // dilation)
        for last in range(latest, size):
            step = int(np.gcd.reduce(np.append(live - first, last - first))) or 1
            taps = np.arange(first, last + 1, step)
            if len(taps) <= len(best):
                best = taps
    return best, pads[0] - int(best[0]) * dilation, pads[1] - (size - 1 - int(best[-1])) * dilation
