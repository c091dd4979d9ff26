"""Rules of operators that only move channels about: they act on the ids exactly as on the data."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from compressor.graph.ids import Ids, Vector
from compressor.graph.walk import Step

__all__ = ["SHAPE_RULES"]


def _permute(step: Step) -> Ids:
    ids = step.ids(step.first)
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
        a, b = (step.dim(name) for name in names)
        order[a], order[b] = order[b], order[a]
    return Ids(tuple(ids.shape[d] for d in order), tuple(ids.axes[d] for d in order))


def _squeeze(step: Step) -> Ids:
    ids = step.ids(step.first)
    dims = step.args.get("dim")
    dims = range(len(ids.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {d % len(ids.shape) for d in dims if ids.shape[d] == 1}
    for d in gone:
        step.book.freeze(ids.axes[d], step.because("a single channel is squeezed away"))
    kept = [d for d in range(len(ids.shape)) if d not in gone]
    return Ids(tuple(ids.shape[d] for d in kept), tuple(ids.axes[d] for d in kept))


def _unsqueeze(step: Step) -> Ids:
    ids = step.ids(step.first)
    dim = int(step.args["dim"]) % (len(ids.shape) + 1)
    return Ids((*ids.shape[:dim], 1, *ids.shape[dim:]), (*ids.axes[:dim], None, *ids.axes[dim:]))


def _select(step: Step) -> Ids:
    ids, dim = step.ids(step.first), step.dim()
    step.book.freeze(ids.axes[dim], step.because("one channel is picked by its number"))
    return Ids(ids.shape[:dim] + ids.shape[dim + 1 :], ids.axes[:dim] + ids.axes[dim + 1 :])


def _unbind(step: Step) -> list[Ids]:
    return [_select(step)] * step.ids(step.first).shape[step.dim()]


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


def _stack(step: Step) -> Ids:
    parts = [step.ids(t) for t in step.tensors()]
    dim = int(step.args.get("dim", 0)) % (len(parts[0].shape) + 1)
    axes = [_agree(step, [p.axes[d] for p in parts]) for d in range(len(parts[0].shape))]
    return Ids(step.shape, (*axes[:dim], None, *axes[dim:]))


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


def _repeat(step: Step) -> Ids:
    ids, shape = step.ids(step.first), step.shape
    extra = len(shape) - len(ids.shape)
    axes: list[Vector | None] = [None] * extra
    for d, vector in enumerate(ids.axes):
        axes.append(None if vector is None else np.tile(vector, shape[extra + d] // ids.shape[d]))
    return Ids(shape, tuple(axes))


def _repeat_interleave(step: Step) -> Ids:
    ids = step.ids(step.first)
    repeats, dim = step.args.get("repeats"), step.args.get("dim")
    if not isinstance(repeats, int) or dim is None:
        reason = step.because("channels repeated unevenly")
        step.book.freeze_all(ids, reason)
        return Ids(step.shape, tuple(step.book.fixed(n, reason) if n > 1 else None for n in step.shape))
    vector = ids.axes[dim]
    axes = list(ids.axes)
    axes[dim] = None if vector is None else np.repeat(vector, repeats)
    return Ids(step.shape, tuple(axes))


def _flip(step: Step) -> Ids:
    ids = step.ids(step.first)
    axes = list(ids.axes)
    for d in step.args["dims"]:
        vector = axes[d]
        axes[d] = None if vector is None else vector[::-1].copy()
    return Ids(ids.shape, tuple(axes))


def _roll(step: Step) -> Ids:
    ids = step.ids(step.first)
    for d in step.args["dims"] or range(len(ids.shape)):
        step.book.freeze(ids.axes[d], step.because("channels are rolled by a number in the code"))
    return ids


def _pixel_shuffle(step: Step) -> Ids:
    ids = step.ids(step.first)
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
    ids, groups = step.ids(step.first), int(step.args["groups"])
    vector = ids.axes[1]
    if vector is None:
        return ids
    rows = vector.reshape(groups, -1)
    step.book.join(rows[:1], rows)
    return ids.with_axis(1, rows.T.reshape(-1).copy())


SHAPE_RULES: dict[str, Callable[[Step], Any]] = {  # Any: a rule returns ids or a list of them
    **dict.fromkeys(["permute", "transpose", "transpose_", "swapaxes", "swapdims", "movedim"], _permute),
    **dict.fromkeys(["t", "numpy_T", "mT", "adjoint"], _permute),
    **dict.fromkeys(["squeeze", "squeeze_"], _squeeze),
    **dict.fromkeys(["unsqueeze", "unsqueeze_"], _unsqueeze),
    **dict.fromkeys(["cat", "concat", "concatenate"], _cat),
    **dict.fromkeys(["repeat", "tile"], _repeat),
    **dict.fromkeys(["pixel_shuffle", "pixel_unshuffle"], _pixel_shuffle),
    **dict.fromkeys(["channel_shuffle", "native_channel_shuffle"], _channel_shuffle),
    "select": _select,
    "unbind": _unbind,
    "stack": _stack,
    "repeat_interleave": _repeat_interleave,
    "flip": _flip,
    "roll": _roll,
}
