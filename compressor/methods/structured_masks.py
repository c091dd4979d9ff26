"""What a structured search may prune, as blocks of units, and the positions that a strided kernel keeps.

    keep(s, f) = { q : q >= f and (q - f) mod s = 0 }      q = u * kw + v, the taps of a kernel row by row, 0 <= f < s

|keep| = ceil((kh * kw - f) / s); s = 1 is dense. Per axis, rows u = fu mod s and columns v = fv mod s stay. (Stride and
offset after Anwar, Hwang and Sung, arXiv 1512.08571, section on intra-kernel sparsity; flattening the kernel row by row
is a reconstruction.)

A *unit* is a channel, a kernel (one input map to one output map), or a source map whose kernels get a stride. A
particle is one row of int8: 0 where the unit is live, else the way in which it is pruned, counted from 1; channels and
kernels have one way, a strided map one for each offset.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Block", "Particles", "check_particles", "keep_positions", "patterns", "split_blocks"]

Particles = npt.NDArray[np.int8]  # (particles, units)
Taps = npt.NDArray[np.bool_]  # (taps,) or (ways, taps), True where the position stays


@dataclass(frozen=True, eq=False)
class Block:
    """Units of one layer or channel group, laid out in rows.

    Attributes:
        name: Of the layer or the channel group.
        rows: Output maps where units are kernels, 1 elsewhere.
        columns: Units in a row.
        num_pruned: How many the search has to prune.
        ways: In which a unit can be pruned.
        keeps_rows: Each row keeps a live unit at least.
        losses: (rows, columns, ways), above 0: what pruning a unit in a way seems to cost; small ones are drawn first.
            None draws uniformly.
    """

    name: str
    rows: int
    columns: int
    num_pruned: int
    ways: int = 1
    keeps_rows: bool = True
    losses: npt.NDArray[np.float64] | None = None

    @property
    def size(self) -> int:
        """Number of units."""
        return self.rows * self.columns

    @property
    def most(self) -> int:
        """The most units that may be pruned."""
        return self.size - (self.rows if self.keeps_rows else 0)


def keep_positions(taps: int, stride: int, offset: int) -> Taps:
    """Returns (taps,): which positions of a flattened kernel stay.

    >>> keep_positions(9, 2, 1).astype(int).tolist()
    [0, 1, 0, 1, 0, 1, 0, 1, 0]

    Raises:
        ValueError: The offset is not in 0 to stride - 1.
    """
    if not 0 <= offset < stride:
        raise ValueError(f"offset {offset} with stride {stride}; it lies from 0 to {stride - 1}")
    places = np.arange(taps)
    stays: Taps = (places >= offset) & ((places - offset) % stride == 0)
    return stays


def patterns(kernel: tuple[int, int], stride: int, *, per_axis: bool) -> Taps:
    """Returns (ways, taps): the different strided patterns of a kernel that keep at least one position.

    Args:
        kernel: (kh, kw).
        stride: s, at least 1.
        per_axis: Rows and columns have an offset each, in the order fu * s + fv; else the flattened kernel has one.

    >>> patterns((3, 3), 2, per_axis=True).sum(1).tolist()
    [4, 2, 2, 1]
    """
    height, width = kernel
    if per_axis:
        rows = [keep_positions(height, stride, offset) for offset in range(min(stride, height))]
        columns = [keep_positions(width, stride, offset) for offset in range(min(stride, width))]
        return np.stack([np.outer(row, column).reshape(-1) for row in rows for column in columns])
    taps = height * width
    return np.stack([keep_positions(taps, stride, offset) for offset in range(min(stride, taps))])


def split_blocks(particles: Particles, blocks: Sequence[Block]) -> list[Particles]:
    """Returns (particles, rows, columns) of each block, views of (particles, units)."""
    ends = np.cumsum([block.size for block in blocks])
    parts = zip(np.split(particles, ends[:-1], axis=1), blocks, strict=True)
    return [part.reshape(len(particles), block.rows, block.columns) for part, block in parts]


def check_particles(particles: Particles, blocks: Sequence[Block], counts: Sequence[int]) -> None:
    """Asserts that every particle prunes exactly `counts` units of each block, in allowed ways, and no whole row."""
    for part, block, count in zip(split_blocks(particles, blocks), blocks, counts, strict=True):
        assert ((part >= 0) & (part <= block.ways)).all(), block.name
        assert ((part != 0).sum(axis=(1, 2)) == count).all(), (block.name, count)
        assert not block.keeps_rows or (part == 0).any(axis=2).all(), block.name
