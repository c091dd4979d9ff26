"""Ops that give the same values another shape."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from compressor.onnx_in.functions import Size
from compressor.onnx_in.reader import Node, Reader

__all__ = ["SHAPE_RULES", "relative_sizes"]

Rule = Callable[[Reader, Node], None]


def relative_sizes(old: Sequence[int], new: Sequence[int]) -> list[Size]:
    """Returns the new sizes as parts of the old ones, so that they follow when channels or images become fewer.

    Sizes are matched in row-major blocks of equal product. Where a block falls into several sizes, the largest
    follows and the others stay: groups of a shuffle, heads.

    >>> relative_sizes((2, 58, 7, 7), (2, 2, 29, 7, 7))
    [[[0], 1], 2, [[1], 2], [[3], 1], [[4], 1]]
    """
    sizes: list[Size] = [1] * len(new)
    first = 1 if old and new and old[0] == new[0] else 0
    if first:
        sizes[0] = [[0], 1]
    left = [d for d in range(first, len(old)) if old[d] != 1]
    right = [d for d in range(first, len(new)) if new[d] != 1]
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while (x := math.prod(old[d] for d in a)) != (y := math.prod(new[d] for d in b)):
            if x < y:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        follows = max(b, key=lambda d: new[d])
        for d in b:
            sizes[d] = int(new[d])
        sizes[follows] = [a, math.prod(new[d] for d in b if d != follows)]
    return sizes


def _reshape(reader: Reader, node: Node) -> None:
    wanted = node.get("shape") if node.version < 5 else reader.constant(node, 1)
    assert wanted is not None
    old = reader.shape(node.inputs[0])
    new = [int(size) for size in np.asarray(wanted).reshape(-1)]
    if not node.get("allowzero", 0):
        new = [old[place] if size == 0 else size for place, size in enumerate(new)]
    known = math.prod(size for size in new if size != -1)
    new = [math.prod(old) // max(known, 1) if size == -1 else size for size in new]
    if math.prod(new) != math.prod(old):
        raise node.refuse(f"makes {tuple(new)} out of {tuple(old)}, which has another number of values")
    to_shape(reader, node, new)


def to_shape(reader: Reader, node: Node, new: Sequence[int]) -> None:
    """Adds the step that brings the node's first input into a shape with as many values."""
    old = reader.shape(node.inputs[0])
    if tuple(new) == old:
        reader.alias(node.outputs[0], node.inputs[0])
        return
    for start in range(1, len(old) - 1):
        if list(new) == [*old[:start], math.prod(old[start:])]:
            reader.function(node, "flatten", start=start)
            return
    reader.function(node, "reshape", sizes=relative_sizes(old, new))


def _flatten(reader: Reader, node: Node) -> None:
    shape = reader.shape(node.inputs[0])
    axis = int(node.get("axis", 1))
    axis += len(shape) if axis < 0 else 0
    to_shape(reader, node, [math.prod(shape[:axis]), math.prod(shape[axis:])])


def _transpose(reader: Reader, node: Node) -> None:
    rank = len(reader.shape(node.inputs[0]))
    reader.function(node, "transpose", order=[int(d) for d in node.get("perm", range(rank)[::-1])])


def _axes(reader: Reader, node: Node) -> list[int] | None:
    axes = node.get("axes") if node.version < 13 else reader.constant(node, 1)
    return None if axes is None else [int(axis) for axis in np.asarray(axes).reshape(-1)]


def _squeeze(reader: Reader, node: Node) -> None:
    shape, axes = reader.shape(node.inputs[0]), _axes(reader, node)
    # The batch may be of one image here and of several later.
    dims = [d for d, size in enumerate(shape) if size == 1 and d] if axes is None else [a % len(shape) for a in axes]
    reader.function(node, "squeeze", dims=dims)


def _unsqueeze(reader: Reader, node: Node) -> None:
    axes = _axes(reader, node)
    assert axes is not None
    rank = len(reader.shape(node.inputs[0])) + len(axes)
    value = reader.resolved(node.inputs[0])
    dims = sorted(axis % rank for axis in axes)
    for number, dim in enumerate(dims, start=1):
        made = node.outputs[0] if number == len(dims) else reader.fresh(node, str(number))
        value = reader.function(node, "unsqueeze", [value], outputs=[made], dim=dim)


def _expand(reader: Reader, node: Node) -> None:
    wanted = reader.constant(node, 1)
    assert wanted is not None
    old = reader.shape(node.inputs[0])
    new = np.broadcast_shapes(old, tuple(int(size) for size in wanted))
    offset = len(new) - len(old)
    sizes = [-1 if d >= offset and old[d - offset] == size else int(size) for d, size in enumerate(new)]
    if all(size == -1 for size in sizes):
        reader.alias(node.outputs[0], node.inputs[0])
    else:
        reader.function(node, "expand", sizes=sizes)


def _tile(reader: Reader, node: Node) -> None:
    times = reader.constant(node, 1)
    assert times is not None
    reader.function(node, "tile", times=[int(count) for count in times])


SHAPE_RULES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": _tile,
}
