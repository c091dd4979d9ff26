"""Ops that put tensors together, take parts of them, or add a border."""

from collections.abc import Callable

import numpy as np

from compressor.onnx_in.operations.window import torch_pads
from compressor.onnx_in.reader import Node, Reader

__all__ = ["PART_RULES"]

Rule = Callable[[Reader, Node], None]

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def _concat(reader: Reader, node: Node) -> None:
    rank = len(reader.shape(node.inputs[0]))
    dim = int(node.get("axis")) % rank
    if dim == 0:
        raise node.refuse("puts images of a batch together; each image has to be by itself")
    reader.function(node, "concat", [reader.operand(name, rank=-1) for name in node.inputs], dim=dim)


def _split(reader: Reader, node: Node) -> None:
    shape = reader.shape(node.inputs[0])
    dim = int(node.get("axis", 0)) % len(shape)
    given = node.get("split") if node.version < 13 else reader.constant(node, 1)
    count = len(node.outputs)
    if given is None:
        whole = -(-shape[dim] // count)
        sizes = [min(whole, shape[dim] - whole * part) for part in range(count)]
    else:
        sizes = [int(size) for size in given]
    if dim == 0:
        raise node.refuse("divides the images of a batch; each image has to be by itself")
    reader.function(node, "split", dim=dim, sizes=sizes)


def _slice(reader: Reader, node: Node) -> None:
    if node.version < 10:
        starts, ends = node.get("starts"), node.get("ends")
        axes, steps = node.get("axes"), None
    else:
        starts, ends, axes, steps = (reader.constant(node, place) for place in (1, 2, 3, 4))
    assert starts is not None
    assert ends is not None
    shape = reader.shape(node.inputs[0])
    dims = range(len(starts)) if axes is None else list(axes)
    strides = [1] * len(starts) if steps is None else list(steps)
    cuts = []
    for axis, start, stop, step in zip(dims, starts, ends, strides, strict=True):
        dim = int(axis) % len(shape)
        if int(step) < 1:
            raise node.refuse(f"walks backwards (step {int(step)}); steps of 1 and more can be read")
        begin, end, stride = slice(int(start), int(stop), int(step)).indices(shape[dim])
        if (begin, end, stride) == (0, shape[dim], 1):
            continue
        if dim == 0:
            raise node.refuse("takes some images of a batch; each image has to be by itself")
        cuts.append((dim, begin, max(begin, end), stride))
    value = reader.resolved(node.inputs[0])
    if not cuts:
        reader.alias(node.outputs[0], value)
    for number, (dim, begin, end, stride) in enumerate(cuts, start=1):
        made = node.outputs[0] if number == len(cuts) else reader.fresh(node, str(number))
        value = reader.function(
            node, "slice", [value], outputs=[made], dim=dim, start=begin, stop=end, step=stride, of=shape[dim]
        )


def _gather(reader: Reader, node: Node) -> None:
    """One place, a run of places, or any list of them."""
    index, shape = reader.constant(node, 1), reader.shape(node.inputs[0])
    assert index is not None
    if reader.is_constant(node.inputs[0]):
        raise node.refuse("looks things up in a table; networks of images have none")
    dim = int(node.get("axis", 0)) % len(shape)
    if dim == 0 and len(shape) > 1 and node.inputs[0] == reader.input:
        raise node.refuse("takes some images of a batch; each image has to be by itself")
    places = np.where(index < 0, index + shape[dim], index)
    if places.ndim == 0:
        reader.function(node, "select", dim=dim, index=int(places))
    elif places.ndim == 1:
        reader.constants[name := reader.fresh(node, "places")] = places.astype(np.int64)
        operands = [reader.resolved(node.inputs[0]), reader.operand(name, rank=-1)]
        reader.function(node, "index_select", operands, dim=dim)
    else:
        raise node.refuse(f"has places of shape {places.shape}; a number or a list can be read")


def _gather_nd(reader: Reader, node: Node) -> None:
    if node.get("batch_dims", 0):
        raise node.refuse("has batch dimensions; GatherND without them can be read")
    index = reader.constant(node, 1)
    assert index is not None
    reader.constants[name := reader.fresh(node, "places")] = index.astype(np.int64)
    reader.function(node, "gather_nd", [reader.resolved(node.inputs[0]), reader.operand(name, rank=-1)])


def _pad(reader: Reader, node: Node) -> None:
    pads = node.get("pads") if node.version < 11 else reader.constant(node, 1)
    filled = node.get("value", 0.0) if node.version < 11 else reader.constant(node, 2)
    axes = reader.constant(node, 3) if node.version >= 18 else None
    assert pads is not None
    rank = len(reader.shape(node.inputs[0]))
    dims = [int(a) % rank for a in axes] if axes is not None else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for place, dim in enumerate(dims):
        before[dim], after[dim] = int(pads[place]), int(pads[place + len(dims)])
    mode = node.get("mode", "constant")
    if mode not in _PAD_MODES:
        raise node.refuse(f"has mode {mode!r}; {', '.join(_PAD_MODES)} can be read")
    if before[0] or after[0]:
        raise node.refuse("adds images to a batch; each image has to be by itself")
    first = next((d for d in range(rank) if before[d] or after[d]), None)
    if first is None:
        reader.alias(node.outputs[0], node.inputs[0])
        return
    first = first if mode == "constant" else min(first, 2)  # torch pads whole images only
    value = 0.0 if filled is None else float(np.asarray(filled).reshape(()))
    reader.function(node, "pad", pads=torch_pads(before[first:], after[first:]), mode=_PAD_MODES[mode], value=value)


PART_RULES: dict[str, Rule] = {
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Pad": _pad,
}
