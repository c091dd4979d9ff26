"""Rules of operators whose sizes the network's own code may hold as numbers: views, slices, splits, expansions, pads.

They are read in one of several ways, `Step.flexible`: first so that the sizes follow the cut (the parts are joined
place by place), then as numbers that stay, at last everything is frozen. `probe` finds out which reading is the true
one.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from compressor.graph.ids import Ids, Vector, has_ids
from compressor.graph.reshape import reshape
from compressor.graph.walk import Step

__all__ = ["SIZE_RULES"]

_WRITTEN = "size written in the network's code"


def _view(step: Step) -> Ids:
    ids = step.ids(step.first)
    follows = step.op in ("flatten", "ravel")  # sizes come from the data, never from the code
    mode = 0 if follows else step.walk.reading.modes.get(step.node.name, 0)
    out, readings = reshape(step.book, ids, step.shape, mode=mode, reason=step.because(_WRITTEN))
    if not follows and readings:
        step.flexible(readings)
    return out


def _slice(step: Step) -> Ids:
    ids, dim = step.ids(step.first), step.dim()
    vector, size = ids.axes[dim], ids.shape[dim]
    start, stop, stride = slice(step.args.get("start"), step.args.get("end"), step.args.get("step", 1)).indices(size)
    if vector is None or not has_ids(vector):
        axes = list(ids.axes)
        axes[dim] = None if vector is None else vector[start:stop:stride]
        return Ids(step.shape, tuple(axes))
    end = step.args.get("end")
    if start == 0 and stride == 1 and (end is None or end > 1 << 40):
        return ids
    mode = step.flexible(2)
    strided = stride > 1 and size % stride == 0 and start < stride and stop == size
    if mode == 0 and (stride == 1 or strided):
        part = stride if strided else math.gcd(start, stop, size)
        if strided:
            rows = vector.reshape(-1, part)
            step.book.join(rows[:, :1], rows)
        else:
            _equal_parts(step, vector, part)
    elif mode <= 1 and stride == 1:  # numbers that stay: everything before them stays too
        step.book.freeze(vector[: stop if stop < size else start], step.because(_WRITTEN))
    else:
        reason = step.because(_WRITTEN)
        step.book.freeze(vector, reason)
        vector = step.book.fixed(size, reason)
    step.walk.starts[step.node.name] = vector[:start]
    return ids.with_axis(dim, vector[start:stop:stride])


def _equal_parts(step: Step, vector: Vector, part: int) -> Vector:
    """Joins place by place the parts, `part` long, of a vector; returns it with every part like the first."""
    rows = vector.reshape(-1, part)
    if len(rows) == 1 or not has_ids(vector):
        return vector
    step.book.join(rows[:1], rows)
    return vector


def _split(step: Step) -> list[Ids]:
    ids, dim = step.ids(step.first), step.dim()
    sizes = [int(value.shape[dim]) for value in step.node.meta["val"]]
    vector, bounds = ids.axes[dim], np.cumsum([0, *sizes])
    if vector is None:
        return [Ids(tuple(value.shape), ids.axes) for value in step.node.meta["val"]]
    if has_ids(vector):
        even = len(set(sizes)) == 1 or step.op == "split_with_sizes"
        mode = step.flexible(1 if even else 0)
        if mode == 0 and even:
            _equal_parts(step, vector, math.gcd(*sizes))
        else:
            reason = step.because(_WRITTEN)
            step.book.freeze(vector, reason)
            vector = step.book.fixed(len(vector), reason)
    return [ids.with_axis(dim, vector[a:b]) for a, b in itertools.pairwise(bounds)]


def _expand(step: Step) -> Ids:
    ids, shape = step.ids(step.first), step.shape
    extra = len(shape) - len(ids.shape)
    axes: list[Vector | None] = [*(None,) * extra, *ids.axes]
    old = (1,) * extra + ids.shape
    spread = [d for d in range(len(shape)) if old[d] != shape[d]]
    concerned = bool(spread) or any(has_ids(vector) for vector in axes)
    rigid = concerned and step.flexible(1) > 0
    for d in range(len(shape)):
        if d in spread:
            step.book.freeze(axes[d], step.because("one channel is spread over several"))
            axes[d] = (step.book.fixed if rigid else step.book.made)(shape[d], step.because(_WRITTEN))
        elif rigid:
            step.book.freeze(axes[d], step.because(_WRITTEN))
    return Ids(shape, tuple(axes))


def _pad(step: Step) -> Ids:
    ids = step.ids(step.first)
    pads = [int(p) for p in step.args.get("pad", step.args.get("padding"))]
    shape, axes = list(step.shape), list(ids.axes)
    for i in range(len(pads) // 2):
        d, (before, after) = len(shape) - 1 - i, pads[2 * i : 2 * i + 2]
        vector = axes[d]
        if vector is None or not (before or after):
            continue
        reason = step.because("channels padded by a number in the code")
        constant = step.op == "constant_pad_nd" or step.args.get("mode", "reflect") == "constant"
        if not constant or min(before, after) < 0 or (has_ids(vector) and step.flexible(1)):
            step.book.freeze(vector, reason)
            axes[d] = step.book.fixed(shape[d], reason)
        else:
            axes[d] = np.concatenate([step.book.fixed(before, reason), vector, step.book.fixed(after, reason)])
    return Ids(tuple(shape), tuple(axes))


SIZE_RULES: dict[str, Callable[[Step], Any]] = {  # Any: a rule returns ids or a list of them
    **dict.fromkeys(["view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "ravel", "unflatten"], _view),
    **dict.fromkeys(["view_as", "reshape_as"], _view),
    **dict.fromkeys(["chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"], _split),
    **dict.fromkeys(["expand", "expand_as", "broadcast_to"], _expand),
    **dict.fromkeys(["pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d"], _pad),
    "slice": _slice,
}
