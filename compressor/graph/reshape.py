"""Ids through `view`: dimensions merge and split in row-major blocks.

    (2·3, 5) → (2, 3, 5)   splits the first dimension      (4, 3, 3) → (4, 9)   merges the last two

A merge of one channel dimension with others repeats its ids. A split of a channel dimension into (a, b, …) keeps the
channels along one of the new dimensions, and joins them place by place along the others; which one, when the ids do
not tell, is the reading `mode`: the last, the one before it, … Past the last reading the ids are frozen.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from compressor.graph.ids import IdBook, Ids, Vector, has_ids

__all__ = ["reshape"]


def reshape(book: IdBook, ids: Ids, shape: Sequence[int], *, mode: int, reason: str) -> tuple[Ids, int]:
    """Returns (the ids in the new shape, how many readings there are; 0 where no channel is concerned)."""
    axes: list[Vector | None] = [None] * len(shape)
    readings = 0
    for vector, size in zip(ids.axes, ids.shape, strict=True):
        if size == 1:
            book.freeze(vector, reason)
    for old, new in _blocks(ids.shape, shape):
        merged = _merge(book, ids, old, reason)
        if merged is None:
            continue
        sizes = [shape[d] for d in new]
        if not has_ids(merged):
            for d in new:
                axes[d] = book.fixed(shape[d], reason)
            if len(new) == 1:
                axes[new[0]] = merged
            continue
        natural = _natural_dim(merged, sizes)
        choices = [natural] if natural is not None else list(range(len(new)))[::-1]
        readings = max(readings, len(choices))
        if mode >= len(choices):
            book.freeze(merged, reason)
            for d in new:
                axes[d] = book.fixed(shape[d], reason)
            continue
        along = choices[mode]
        rows = np.moveaxis(merged.reshape(sizes), along, 0).reshape(sizes[along], -1)
        book.join(rows[:, :1], rows)
        axes[new[along]] = rows[:, 0].copy()
        for i, d in enumerate(new):
            if i != along:
                axes[d] = None
    return Ids(tuple(shape), tuple(axes)), readings


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yields (old dimensions, new dimensions) of equal product, leaving out dimensions of size 1."""
    left = [d for d, size in enumerate(old) if size != 1]
    right = [d for d, size in enumerate(new) if size != 1]
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while (x := math.prod(old[d] for d in a)) != (y := math.prod(new[d] for d in b)):
            if x < y:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        yield a, b


def _merge(book: IdBook, ids: Ids, dims: Sequence[int], reason: str) -> Vector | None:
    """Returns the ids of several dimensions laid flat; None when none of them holds channels."""
    holders = [d for d in dims if ids.axes[d] is not None]
    if not holders:
        return None
    total = math.prod(ids.shape[d] for d in dims)
    channels = [d for d in holders if has_ids(ids.axes[d])]
    if len(channels) > 1:
        for d in channels:
            book.freeze(ids.axes[d], reason)
        return book.fixed(total, reason)
    holder = channels[0] if channels else holders[0]
    vector = ids.axes[holder]
    assert vector is not None
    inner = math.prod(ids.shape[d] for d in dims if d > holder)
    return np.tile(np.repeat(vector, inner), total // (inner * len(vector)))


def _natural_dim(merged: Vector, sizes: Sequence[int]) -> int | None:
    """Returns the only new dimension along which the ids change, if they change along one alone."""
    if len(sizes) == 1:
        return 0
    table = merged.reshape(sizes)
    for along in range(len(sizes)):
        rows = np.moveaxis(table, along, 0).reshape(sizes[along], -1)
        if (rows == rows[:, :1]).all():
            return along
    return None
