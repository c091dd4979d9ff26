"""Fixed-point weights as the exporter is told about them, and how they are found again in a graph's float weights.

Between torch and a finished graph a weight's rows (output channels) are only ever scaled, by a folded batch norm, moved
to another axis, or thinned out. So W[k] = c[k] * z[k] still holds with the same whole numbers z, which is checked.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["FixedWeight", "Words", "recover"]

_NOISE = 1e-3
"""How far W / c may be from whole numbers: float32 noise at level 127 is 1e-5, a misfit near 0.5."""

_SMALLEST = float(np.finfo(np.float32).tiny)

Levels = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FixedWeight:
    """One weight of a torch network in fixed point.

    Attributes:
        name: In the network's state.
        module: That computes with it: the name that the graph's nodes have.
        levels: Whole numbers, of the weight's shape.
        step: (), or one for each place along `axis`.
        axis: The output channels' dimension.
        bits: Of a word.
        q_format: Qm.n where the steps are powers of two.
    """

    name: str
    module: str
    levels: Levels
    step: Floats
    axis: int
    bits: int
    q_format: str | None = None

    def to_json(self) -> dict[str, object]:
        """What a file's metadata says of it."""
        return {"bits": self.bits} | ({} if self.q_format is None else {"format": self.q_format})


@dataclass(frozen=True)
class Words:
    """Levels of a graph's weight, and scales: () or one for each place along `axis`; weight = scale * levels."""

    levels: Levels
    scale: Floats
    axis: int


def recover(fixed: FixedWeight, weight: Floats) -> Words | None:
    """Returns the whole numbers behind a graph's float weight and their scales; None where there are none.

    1. The same shape, or the transposed matrix: its levels are those of `fixed`.
    2. Another shape with the same rows in front (columns left out): levels are found row by row.
    3. Anything else: None.
    """
    for levels, axis in _orientations(fixed, weight.shape):
        words = _scaled(levels, weight, axis)
        if words is not None:
            return _plain(fixed, words)
    rows = fixed.levels.shape[fixed.axis]
    if fixed.axis == 0 and weight.ndim >= 2 and weight.shape[0] == rows and weight.size <= fixed.levels.size:
        words = _thinned(fixed, weight)
        return None if words is None else _plain(fixed, words)
    return None


def _orientations(fixed: FixedWeight, shape: tuple[int, ...]) -> list[tuple[Levels, int]]:
    """The levels in each way that has the shape, with the axis of their rows."""
    ways = [(fixed.levels, fixed.axis)]
    if fixed.levels.ndim == 2:
        ways.append((np.ascontiguousarray(fixed.levels.T), 1 - fixed.axis))
    return [(levels, axis) for levels, axis in ways if levels.shape == shape]


def _scaled(levels: Levels, weight: Floats, axis: int) -> Words | None:
    """Scales c with weight = c * levels along an axis, c > 0; a negative c turns its row's levels around."""
    rows = np.moveaxis(levels, axis, 0).reshape(levels.shape[axis], -1).astype(np.float64)
    values = np.moveaxis(weight, axis, 0).reshape(rows.shape).astype(np.float64)
    places = np.abs(rows).argmax(axis=1)[:, None]
    largest = np.take_along_axis(rows, places, axis=1)[:, 0]
    at_largest = np.take_along_axis(values, places, axis=1)[:, 0]
    scale = at_largest / np.where(largest == 0, 1.0, largest)
    usable = np.abs(scale) >= _SMALLEST
    safe = np.where(usable, scale, 1.0)[:, None]
    wanted = np.where(usable[:, None], rows, 0.0)
    if np.abs(values / safe - wanted).max(initial=0.0) > _NOISE:
        return None
    signed = np.moveaxis((wanted * np.sign(safe)).reshape(np.moveaxis(levels, axis, 0).shape), 0, axis)
    return Words(np.ascontiguousarray(signed, np.int8), np.abs(safe[:, 0]).astype(np.float32), axis)


def _thinned(fixed: FixedWeight, weight: Floats) -> Words | None:
    """As `_scaled` where zeros were left out: what remains of a row still has its largest level."""
    rows = np.abs(fixed.levels.reshape(len(weight), -1).astype(np.float64)).max(axis=1)
    values = weight.reshape(len(weight), -1).astype(np.float64)
    scale = np.abs(values).max(axis=1) / np.where(rows == 0, 1.0, rows)
    usable = scale >= _SMALLEST
    found = np.where(usable[:, None], values / np.where(usable, scale, 1.0)[:, None], 0.0)
    if np.abs(found - np.rint(found)).max(initial=0.0) > _NOISE:
        return None
    levels = np.rint(found).astype(np.int8).reshape(weight.shape)
    return Words(levels, np.where(usable, scale, 1.0).astype(np.float32), 0)


def _plain(fixed: FixedWeight, words: Words) -> Words:
    """The network's own steps where nothing was folded in, one scale where all are equal."""
    step = np.broadcast_to(fixed.step, words.scale.shape)
    dead = np.moveaxis(words.levels, words.axis, 0).reshape(len(words.scale), -1).any(axis=1) == 0
    close = np.isclose(words.scale, step, rtol=1e-6, atol=0.0) | dead
    if close.all():
        scale = fixed.step if fixed.step.ndim == 0 else np.ascontiguousarray(step)
        return Words(words.levels, np.asarray(scale, np.float32), words.axis)
    return words
