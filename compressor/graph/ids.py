"""Channel ids: what is written beside every tensor while a network is walked.

A tensor has one vector of ids per dimension, or None where the dimension carries no channels. An entry says:

1. ``>= 0``: the channel with that id; joined ids become one unit;
2. ``< 0``: a fixed place, which no cut may remove; an id that meets it is frozen for its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["IdBook", "Ids", "Vector", "has_ids"]

Vector = npt.NDArray[np.int64]
_FIRST_FIXED = -1


@dataclass(frozen=True)
class Ids:
    """Ids of one tensor: its shape, and per dimension a vector of that length or None."""

    shape: tuple[int, ...]
    axes: tuple[Vector | None, ...]

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.axes), (self.shape, len(self.axes))
        assert all(v is None or len(v) == n for v, n in zip(self.axes, self.shape, strict=True)), self.shape

    def with_axis(self, dim: int, vector: Vector | None) -> "Ids":
        """Returns the same tensor with another vector, of any length, along `dim`."""
        axes, shape = list(self.axes), list(self.shape)
        axes[dim] = vector
        if vector is not None:
            shape[dim] = len(vector)
        return Ids(tuple(shape), tuple(axes))


def has_ids(vector: Vector | None) -> bool:
    """Says whether a dimension holds at least one real channel id."""
    return vector is not None and bool((vector >= 0).any())


class IdBook:
    """Issues ids and remembers which were joined and which are frozen."""

    def __init__(self) -> None:
        self.num_ids = 0
        self._edges: list[Vector] = []
        self._frozen: list[tuple[Vector, int]] = []
        self._reasons: list[str] = []
        self._made: list[tuple[Vector, int]] = []

    def new(self, count: int) -> Vector:
        """Returns `count` fresh ids."""
        ids = np.arange(self.num_ids, self.num_ids + count, dtype=np.int64)
        self.num_ids += count
        return ids

    def fixed(self, count: int, reason: str) -> Vector:
        """Returns `count` entries that freeze whatever they meet."""
        return np.full(count, _FIRST_FIXED - self._code(reason), dtype=np.int64)

    def made(self, count: int, reason: str) -> Vector:
        """Returns fresh ids of a tensor the code makes; frozen for `reason` unless a layer's channels join them."""
        ids = self.new(count)
        self._made.append((ids, self._code(reason)))
        return ids

    def freeze_made(self, unit: Vector, makers: Vector) -> None:
        """Freezes made ids whose unit is not among those that layers make."""
        for ids, code in self._made:
            alone = ids[~np.isin(unit[ids], makers)]
            if len(alone):
                self._frozen.append((alone, code))

    def freeze(self, vector: Vector | None, reason: str) -> None:
        """Keeps the units of these ids from being cut."""
        if vector is not None and has_ids(vector):
            self._frozen.append((vector[vector >= 0], self._code(reason)))

    def freeze_all(self, ids: Ids, reason: str) -> None:
        """Freezes every id of a tensor."""
        for vector in ids.axes:
            self.freeze(vector, reason)

    def join(self, first: Vector, second: Vector) -> Vector:
        """Joins ids place by place (the shapes broadcast); returns what the place holds afterwards."""
        first, second = np.broadcast_arrays(first, second)
        both = (first >= 0) & (second >= 0) & (first != second)
        if both.any():
            self._edges.append(np.stack([first[both], second[both]]))
        for vector, other in ((first, second), (second, first)):
            fixed = (other < 0) & (vector >= 0)
            for entry in np.unique(other[fixed]).tolist():
                self._frozen.append((vector[fixed & (other == entry)], _FIRST_FIXED - entry))
        return np.where(first >= 0, first, second)

    def roots(self) -> Vector:
        """Returns the unit of each id, named by its smallest id."""
        return _components(self.num_ids, self._edges)

    def reasons(self, unit: Vector) -> Vector:
        """Returns the code of each id's reason to be frozen, -1 where it is free; `unit` is what `roots` returned."""
        reason = np.full(self.num_ids, -1, dtype=np.int64)
        for ids, code in self._frozen:
            roots = unit[ids]
            reason[roots[reason[roots] < 0]] = code
        return reason[unit]

    def reason_text(self, code: int) -> str:
        """Returns the text of a reason code of `units`."""
        return self._reasons[code]

    def _code(self, reason: str) -> int:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return self._reasons.index(reason)


def _components(count: int, edges: Sequence[Vector]) -> Vector:
    """Returns the smallest id of each id's connected component; every step works on whole arrays."""
    label = np.arange(count, dtype=np.int64)
    if not edges:
        return label
    first, second = np.unique(np.concatenate(edges, axis=1), axis=1)
    while True:
        a, b = label[first], label[second]
        apart = a != b
        if not apart.any():
            return label
        first, second = first[apart], second[apart]
        np.minimum.at(label, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while not np.array_equal(jumped := label[label], label):
            label = jumped
