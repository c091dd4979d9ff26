"""Rules of operators that move channels about: they act on the ids exactly as on the data.

Sizes that the network's own code may hold as numbers (chunks, splits, slices, views) are read in one of several ways,
`Step.flexible`: first so that they follow the cut (the parts are joined place by place), then as fixed numbers, at
last everything is frozen. `probe` finds out which reading is the true one.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from compressor.graph.ids import Ids, Vector, has_ids
from compressor.graph.reshape import reshape
from compressor.graph.walk import Step

__all__ = ["SHAPE_RULES"]

_WRITTEN = "size written in the network's code"


def _dim(step: Step, name: str = "dim") -> int:
    return int(step.args[name]) % len(step.ids(_main(step)).shape)


def _main(step: Step) -> Any:  # Any: the first argument, whatever its name
    return next(iter(step.args.values()))


def _fixed_everywhere(step: Step, ids: Ids, reason: str, shape: Sequence[int]) -> Ids:
    step.book.freeze_all(ids, reason)
    return Ids(tuple(shape), tuple(step.book.fixed(n, reason) if n > 1 else None for n in shape))


def _view(step: Step) -> Ids:
    ids = step.ids(_main(step))
    follows = step.op in ("flatten", "ravel")  # sizes come from the data, never from the code
    mode = 0 if follows else step.walk.reading.modes.get(step.node.name, 0)
    out, readings = reshape(step.book, ids, step.shape, mode=mode, reason=step.because(_WRITTEN))
    if not follows and readings:
        step.flexible(readings)
    return out


def _permute(step: Step) -> Ids:
    ids = step.ids(_main(step))
    order = list(range(len(ids.shape)))
    if step.op == "permute":
        order = [d % len(order) for d in step.args["dims"]]
    elif step.op == "movedim":
        source = [d % len(order) for d in step.args["source"]]
        target = [d % len(order) for d in step.args["destination"]]
        rest = iter([d for d in order if d not in source])
        moved = dict(zip(target, source, strict=True))
        order = [moved[d] if d in moved else next(rest) for d in range(len(order))]
    elif step.op in ("t", "numpy_T", "mT", "adjoint"):
        order = order[::-1] if step.op in ("t", "numpy_T") else [*order[:-2], order[-1], order[-2]]
    else:
        names = ("dim0", "dim1") if "dim0" in step.args else ("axis0", "axis1")
        a, b = (_dim(step, name) for name in names)
        order[a], order[b] = order[b], order[a]
    return Ids(tuple(ids.shape[d] for d in order), tuple(ids.axes[d] for d in order))


def _squeeze(step: Step) -> Ids:
    ids = step.ids(_main(step))
    dims = step.args.get("dim")
    dims = range(len(ids.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {d % len(ids.shape) for d in dims if ids.shape[d] == 1}
    for d in gone:
        step.book.freeze(ids.axes[d], step.because("a single channel is squeezed away"))
    kept = [d for d in range(len(ids.shape)) if d not in gone]
    return Ids(tuple(ids.shape[d] for d in kept), tuple(ids.axes[d] for d in kept))


def _unsqueeze(step: Step) -> Ids:
    ids = step.ids(_main(step))
    dim = int(step.args["dim"]) % (len(ids.shape) + 1)
    return Ids((*ids.shape[:dim], 1, *ids.shape[dim:]), (*ids.axes[:dim], None, *ids.axes[dim:]))


def _select(step: Step) -> Ids:
    ids, dim = step.ids(_main(step)), _dim(step)
    step.book.freeze(ids.axes[dim], step.because("one channel is picked by its number"))
    return Ids(ids.shape[:dim] + ids.shape[dim + 1 :], ids.axes[:dim] + ids.axes[dim + 1 :])


def _unbind(step: Step) -> list[Ids]:
    return [_select(step)] * step.ids(_main(step)).shape[_dim(step)]


def _equal_parts(step: Step, vector: Vector, part: int) -> Vector:
    """Joins place by place the parts, `part` long, of a vector; returns it with every part like the first."""
    rows = vector.reshape(-1, part)
    if len(rows) == 1 or not has_ids(vector):
        return vector
    step.book.join(rows[:1], rows)
    return vector


def _slice(step: Step) -> Ids:
    ids, dim = step.ids(_main(step)), _dim(step)
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


def _split(step: Step) -> list[Ids]:
    ids, dim = step.ids(_main(step)), _dim(step)
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


def _cat(step: Step) -> Ids:
    parts = [step.ids(t) for t in step.tensors()]
    parts = [p for p in parts if p.shape != (0,)]
    rank = len(parts[0].shape)
    dim = int(step.args.get("dim", 0)) % rank
    axes: list[Vector | None] = []
    for d in range(rank):
        vectors = [p.axes[d] for p in parts]
        if d == dim:
            if all(v is None for v in vectors):
                axes.append(None)
                continue
            reason = step.because("concatenated with a dimension that holds no channels")
            filled = [
                step.book.fixed(p.shape[d], reason) if v is None else v for p, v in zip(parts, vectors, strict=True)
            ]
            axes.append(np.concatenate(filled))
        else:
            axes.append(_agree(step, vectors))
    return Ids(step.shape, tuple(axes))


def _agree(step: Step, vectors: Sequence[Vector | None]) -> Vector | None:
    """Joins vectors of one dimension of several tensors that must have the same length."""
    known = [v for v in vectors if v is not None]
    if not known:
        return None
    merged = known[0]
    for vector in known[1:]:
        merged = step.book.join(merged, vector)
    if len(known) < len(vectors):
        step.book.freeze(merged, step.because("meets a dimension that holds no channels"))
    return merged


def _stack(step: Step) -> Ids:
    parts = [step.ids(t) for t in step.tensors()]
    dim = int(step.args.get("dim", 0)) % (len(parts[0].shape) + 1)
    axes = [_agree(step, [p.axes[d] for p in parts]) for d in range(len(parts[0].shape))]
    return Ids(step.shape, (*axes[:dim], None, *axes[dim:]))


def _expand(step: Step) -> Ids:
    ids, shape = step.ids(_main(step)), step.shape
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


def _repeat(step: Step) -> Ids:
    ids, shape = step.ids(_main(step)), step.shape
    extra = len(shape) - len(ids.shape)
    axes: list[Vector | None] = [None] * extra
    for d, vector in enumerate(ids.axes):
        axes.append(None if vector is None else np.tile(vector, shape[extra + d] // ids.shape[d]))
    return Ids(shape, tuple(axes))


def _repeat_interleave(step: Step) -> Ids:
    ids = step.ids(_main(step))
    repeats, dim = step.args.get("repeats"), step.args.get("dim")
    if not isinstance(repeats, int) or dim is None:
        return _fixed_everywhere(step, ids, step.because("unknown repetition of channels"), step.shape)
    vector = ids.axes[dim]
    axes = list(ids.axes)
    axes[dim] = None if vector is None else np.repeat(vector, repeats)
    return Ids(step.shape, tuple(axes))


def _flip(step: Step) -> Ids:
    ids = step.ids(_main(step))
    axes = list(ids.axes)
    for d in step.args["dims"]:
        vector = axes[d]
        axes[d] = None if vector is None else vector[::-1].copy()
    return Ids(ids.shape, tuple(axes))


def _roll(step: Step) -> Ids:
    ids = step.ids(_main(step))
    for d in step.args["dims"] or range(len(ids.shape)):
        step.book.freeze(ids.axes[d], step.because("channels are rolled by a number in the code"))
    return ids


def _pad(step: Step) -> Ids:
    ids = step.ids(_main(step))
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


def _pixel_shuffle(step: Step) -> Ids:
    ids = step.ids(_main(step))
    vector, out = ids.axes[-3], step.shape
    if step.op == "pixel_unshuffle":
        merged = None if vector is None else np.repeat(vector, out[-3] // ids.shape[-3])
    elif vector is None:
        merged = None
    else:  # the factor² channels behind one output channel go together
        rows = vector.reshape(out[-3], -1)
        step.book.join(rows[:, :1], rows)
        merged = rows[:, 0]
    return Ids(out, (*ids.axes[:-3], merged, None, None))


def _channel_shuffle(step: Step) -> Ids:
    ids, groups = step.ids(_main(step)), int(step.args["groups"])
    vector = ids.axes[1]
    if vector is None:
        return ids
    rows = vector.reshape(groups, -1)
    step.book.join(rows[:1], rows)
    return ids.with_axis(1, rows.T.reshape(-1).copy())


def _same_names(rule: Callable[[Step], Any], *names: str) -> dict[str, Callable[[Step], Any]]:
    return dict.fromkeys(names, rule)  # Any: a rule returns ids or a list of them


SHAPE_RULES: dict[str, Callable[[Step], Any]] = {
    **_same_names(_view, "view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "ravel", "unflatten"),
    **_same_names(_view, "view_as", "reshape_as"),
    **_same_names(_permute, "permute", "transpose", "transpose_", "swapaxes", "swapdims", "movedim"),
    **_same_names(_permute, "t", "numpy_T", "mT", "adjoint"),
    **_same_names(_squeeze, "squeeze", "squeeze_"),
    **_same_names(_unsqueeze, "unsqueeze", "unsqueeze_"),
    **_same_names(_split, "chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"),
    **_same_names(_cat, "cat", "concat", "concatenate"),
    **_same_names(_expand, "expand", "expand_as", "broadcast_to"),
    **_same_names(_pad, "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d"),
    **_same_names(_pixel_shuffle, "pixel_shuffle", "pixel_unshuffle"),
    **_same_names(_channel_shuffle, "channel_shuffle", "native_channel_shuffle"),
    **_same_names(_repeat, "repeat", "tile"),
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    "stack": _stack,
    "repeat_interleave": _repeat_interleave,
    "flip": _flip,
    "roll": _roll,
}
