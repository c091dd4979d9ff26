"""Rules of layers: they read the channels of their input and write those along their weight's own axes.

1. Convolution, linear: input channels are the weight's in-axis, output channels its out-axis.
2. Grouped convolution: the same place in every group is one unit, so that the groups stay equally wide.
3. Depthwise convolution (one input channel per group): an input channel and the outputs made of it are one unit.
4. Batch and instance norm: each channel by itself.
5. Group norm: a statistics group goes as a whole, and only where the module's `num_groups` can follow.
6. Layer norm, and group norm over all channels: the statistics run over the channels, nothing may be cut.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from compressor.graph.ids import Ids, Vector, has_ids
from compressor.graph.walk import Call, Step, Tensor, WeightRef, module_path, op_name

__all__ = ["LAYER_RULES"]


def _weight_axis(step: Step, weight: Tensor, dim: int) -> Vector:
    if isinstance(weight, WeightRef):
        return step.walk.parameters.axis(weight, dim)
    vector = weight.axes[dim]
    if vector is None:
        vector = step.book.fixed(weight.shape[dim], step.because("weights computed in the network's code"))
    return vector


def _freeze_kernel(step: Step, weight: Tensor) -> None:
    if isinstance(weight, Ids):
        for vector in weight.axes[2:]:
            step.book.freeze(vector, step.because("taps of a kernel"))


def _read(step: Step, weight_axis: Vector, data: Vector | None) -> None:
    """Joins a weight's in-axis with the channels it reads."""
    if data is None:
        step.book.freeze(weight_axis, step.because("reads a dimension that holds no channels"))
    else:
        step.book.join(weight_axis, data)


def _record(step: Step, weight: Tensor | None, inputs: Vector, outputs: Vector, groups: int, macs: int) -> None:
    path = weight.path if isinstance(weight, WeightRef) else None
    prefix, _, leaf = (path or "").rpartition(".")
    name = prefix if path and leaf == "weight" and prefix else path or step.module_path or step.node.name
    readers = list(step.node.users)
    alone = macs > 0 and len(readers) == 1 and op_name(readers[0]) == "batch_norm" and readers[0].args[0] is step.node
    norm = module_path(readers[0]) if alone else None
    step.walk.calls.append(Call(name, step.op, path, inputs, outputs, groups, macs, norm))


def _spatial_free(step: Step, ids: Ids, first: int) -> tuple[Vector | None, ...]:
    """Freezes channels along spatial dimensions, which a kernel mixes; returns no ids for them."""
    for vector in ids.axes[first:]:
        step.book.freeze(vector, step.because("a kernel slides over these channels"))
    return (None,) * (len(ids.shape) - first)


def _convolution(step: Step) -> Ids:
    ids, weight = step.ids(step.args["input"]), step.args["weight"]
    transposed = bool(step.args.get("transposed", "transpose" in step.op))
    groups = int(step.args.get("groups", 1))
    channel = len(ids.shape) - (len(weight.shape) - 1)  # 0 without a batch dimension
    size, data = ids.shape[channel], ids.axes[channel]
    first, second = _weight_axis(step, weight, 0), None
    _freeze_kernel(step, weight)
    depthwise = groups > 1 and groups == size
    if not depthwise:
        second = _weight_axis(step, weight, 1)
    if groups == 1:
        assert second is not None
        own, out = (first, second) if transposed else (second, first)
        _read(step, own, data)
    elif depthwise and transposed:  # weight (in, m, …): the m outputs of one input follow it
        _read(step, first, data)
        out = np.repeat(first, weight.shape[1])
        if isinstance(weight, Ids):
            step.book.freeze(weight.axes[1], step.because("outputs of one depthwise group"))
    elif depthwise:  # weight (in·m, 1, …)
        rows = first.reshape(groups, -1)
        step.book.join(rows[:, :1], rows)
        _read(step, rows[:, 0], data)
        out = first
    elif transposed:
        assert second is not None
        rows = first.reshape(groups, -1)
        step.book.join(rows[:1], rows)
        _read(step, first, data)
        out = np.tile(second, groups)
    else:
        assert second is not None
        rows = first.reshape(groups, -1)
        step.book.join(rows[:1], rows)
        _read(step, np.tile(second, groups), data)
        out = first
    bias = step.args.get("bias")
    if bias is not None:
        step.book.join(_weight_axis(step, bias, 0), out)
    inputs = data if data is not None else step.book.fixed(size, step.because("holds no channels"))
    positions = math.prod(ids.shape[channel:] if transposed else step.shape[channel:])
    positions //= ids.shape[channel] if transposed else step.shape[channel]
    _record(step, weight, inputs, out, groups, positions * math.prod(weight.shape))
    lead = tuple(ids.axes[:channel])
    return Ids(step.shape, (*lead, out, *_spatial_free(step, ids, channel + 1)))


def _linear(step: Step) -> Ids:
    ids, weight = step.ids(step.args["input"]), step.args["weight"]
    out, own, data = _weight_axis(step, weight, 0), _weight_axis(step, weight, 1), ids.axes[-1]
    _read(step, own, data)
    bias = step.args.get("bias")
    if bias is not None:
        step.book.join(_weight_axis(step, bias, 0), out)
    positions = math.prod(ids.shape[1:-1]) if len(ids.shape) > 1 else 1
    inputs = data if data is not None else own
    _record(step, weight, inputs, out, 1, positions * math.prod(weight.shape))
    return Ids(step.shape, (*ids.axes[:-1], out))


def _channel_statistics(step: Step) -> Ids:
    ids = step.ids(step.args["input"])
    vector = ids.axes[1]
    weight = step.args.get("weight")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (value := step.args.get(name)) is not None:
            _read(step, _weight_axis(step, value, 0), vector)
    if vector is not None:
        _record(step, weight, vector, vector, 1, 0)
    return Ids(step.shape, (*ids.axes[:2], *_spatial_free(step, ids, 2)))


def _group_norm(step: Step) -> Ids:
    ids, groups = step.ids(step.args["input"]), int(step.args["num_groups"])
    vector, weight = ids.axes[1], step.args.get("weight")
    for name in ("weight", "bias"):
        if (value := step.args.get(name)) is not None:
            _read(step, _weight_axis(step, value, 0), vector)
    if vector is not None:
        owner = step.walk.module.get_submodule(step.module_path)
        follows = isinstance(owner, torch.nn.GroupNorm) and owner.num_groups == groups
        if groups == 1 or not follows:
            text = "group_norm statistics run over all channels" if groups == 1 else "group count in the code"
            step.book.freeze(vector, step.because(text))
        else:
            rows = vector.reshape(groups, -1)
            step.book.join(rows[:, :1], rows)
        _record(step, weight, vector, vector, groups, 0)
    return Ids(step.shape, (*ids.axes[:2], *_spatial_free(step, ids, 2)))


def _layer_norm(step: Step) -> Ids:
    ids = step.ids(step.args["input"])
    weight, rank = step.args.get("weight"), len(step.args["normalized_shape"])
    first = len(ids.shape) - rank
    for i, vector in enumerate(ids.axes[first:]):
        if not has_ids(vector) or vector is None:
            continue
        step.book.freeze(vector, step.because("layer_norm statistics run over these channels"))
        for name in ("weight", "bias"):
            if (value := step.args.get(name)) is not None:
                _read(step, _weight_axis(step, value, i), vector)
        if rank == 1:
            _record(step, weight, vector, vector, 1, 0)
    return Ids(step.shape, ids.axes)


def _prelu(step: Step) -> Ids:
    ids, weight = step.ids(step.args["self"]), step.args["weight"]
    if math.prod(weight.shape) > 1:
        _read(step, _weight_axis(step, weight, 0), ids.axes[1])
    return ids


LAYER_RULES: dict[str, Callable[[Step], Any]] = {  # Any: a rule returns ids or a list of them
    **dict.fromkeys(
        [f"conv{n}d" for n in (1, 2, 3)] + ["convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"],
        _convolution,
    ),
    "linear": _linear,
    "batch_norm": _channel_statistics,
    "instance_norm": _channel_statistics,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "prelu": _prelu,
}
