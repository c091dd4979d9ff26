"""From particles to what the layers of a network lose: the units of the three granularities.

channel     M = 0 on the layers' inputs that read the channel            unit: a unit of a channel group
kernel      M[o, c] = 0                                                  unit: one kernel (o, c)
strided     M[o, c, q] = [q in keep(s, f)], f of c, (o, c), or all       unit: a source map, a kernel, or the layer
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compressor.graph import ChannelGraph, ChannelGroup
from compressor.methods.structured_masks import Block, Particles, patterns, split_blocks
from compressor.methods.structured_parts import LayerMask
from compressor.methods.structured_program import Call

__all__ = [
    "Target",
    "channel_target",
    "kernel_target",
    "layer_masks",
    "strided_target",
    "weight_mask",
    "with_losses",
]

Units = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Target:
    """One thing to search: a channel group, or a layer's kernels or strides.

    Attributes:
        block: Its units.
        reads: Channels only: call → (in_channels,), which unit of the block each input channel is; below 0: none.
        weight: Kernels and strides: the weight's path, None for channels.
        patterns: Strides only: (ways, kh, kw) booleans, the positions that stay.
        num_calls: Kernels and strides: how often the layer is called.
    """

    block: Block
    reads: Mapping[Call, Units] | None = None
    weight: str | None = None
    patterns: npt.NDArray[np.bool_] | None = None
    num_calls: int = 1

    @property
    def calls(self) -> tuple[Call, ...]:
        """The layers whose results the masks change."""
        if self.reads is not None:
            return tuple(self.reads)
        assert self.weight is not None
        return tuple((self.weight, number) for number in range(self.num_calls))


def channel_target(graph: ChannelGraph, group: ChannelGroup, num_pruned: int) -> Target:
    """Returns the channels of a group, as the layers that read them see them; none reads them in a frozen group only.

    Depthwise convolutions hand channels on: who reads them after that decides.
    """
    reads: dict[Call, Units] = {}
    number: dict[str, int] = {}
    for layer in graph.layers:
        if not layer.macs or layer.weight is None:
            continue
        call = (layer.weight, number.get(layer.weight, 0))
        number[layer.weight] = call[1] + 1
        inside = (layer.inputs >= group.start) & (layer.inputs < group.start + group.size)
        if inside.any() and not (layer.groups > 1 and layer.groups == len(layer.inputs)):
            reads[call] = np.where(inside, layer.inputs - group.start, -1)
    return Target(Block(group.name, 1, group.size, num_pruned), reads)


def kernel_target(layer: str, shape: tuple[int, ...], density: float, *, num_calls: int = 1) -> Target:
    """Returns the kernels of a convolution of one group.

    Args:
        layer: Its module's path.
        shape: Of its weight, (O, C, kh, kw).
        density: Part of the kernels that stays; at least one of each output map does.
        num_calls: How often the layer is called.
    """
    outputs, inputs = shape[:2]
    pruned = min(round((1.0 - density) * outputs * inputs), outputs * (inputs - 1))
    return Target(Block(layer, outputs, inputs, pruned), weight=f"{layer}.weight", num_calls=num_calls)


def strided_target(
    layer: str,
    shape: tuple[int, ...],
    stride: int,
    *,
    part: float = 1.0,
    per_axis: bool = False,
    sharing: str = "source",
    num_calls: int = 1,
) -> Target:
    """Returns the source maps of a convolution of one group, to be pruned by giving them a stride and an offset.

    Args:
        layer: Its module's path.
        shape: Of its weight, (O, C, kh, kw).
        stride: s.
        part: Of the units that get it.
        per_axis: See `patterns`.
        sharing: Units are source maps (`source`), the layer, or kernels (`none`).
        num_calls: How often the layer is called.
    """
    outputs, inputs, height, width = shape
    ways = patterns((height, width), stride, per_axis=per_axis).reshape(-1, height, width)
    rows, columns = {"source": (1, inputs), "layer": (1, 1), "none": (outputs, inputs)}[sharing]
    pruned = max(1, round(part * rows * columns))
    block = Block(layer, rows, columns, pruned, ways=len(ways), keeps_rows=False)
    return Target(block, weight=f"{layer}.weight", patterns=ways, num_calls=num_calls)


def weight_mask(target: Target, part: npt.NDArray[np.int8]) -> Tensor:
    """Returns booleans that broadcast to the weight's shape (O, C, kh, kw): True where a weight stays.

    Args:
        target: Kernels or strides.
        part: (rows, columns), one particle's share.
    """
    if target.patterns is None:
        return torch.from_numpy(part == 0)[:, :, None, None]
    ways = np.concatenate([np.ones_like(target.patterns[:1]), target.patterns])
    return torch.from_numpy(ways[part])


def with_losses(target: Target, model: nn.Module, scores: Mapping[str, Tensor]) -> Target:
    """Returns the target with a guess of what each unit's loss would cost, 1 on average: the L1 norm of its weights.

    Args:
        target: What is searched.
        model: Has the weights.
        scores: Channel group → (units,), how much the channels matter.
    """
    if target.weight is None:
        norms = scores[target.block.name].double().reshape(1, -1, 1)
    else:
        sizes = model.get_parameter(target.weight).detach().abs().double().cpu()
        if target.patterns is None:
            norms = sizes.sum((2, 3))[:, :, None]
        else:
            gone = torch.from_numpy(~target.patterns).double()
            norms = torch.einsum("ocuv,wuv->ocw", sizes, gone)
            if target.block.rows == 1:
                norms = norms.sum(0, keepdim=True)
                norms = norms.sum(1, keepdim=True) if target.block.columns == 1 else norms
    least = torch.finfo(torch.float32).tiny
    losses = (norms / norms.mean().clamp_min(least)).clamp_min(1e-3)
    return replace(target, block=replace(target.block, losses=losses.numpy()))


def layer_masks(
    targets: Sequence[Target], particles: Particles, *, device: torch.device | None = None
) -> list[dict[Call, LayerMask]]:
    """Returns what each particle leaves of each call.

    Args:
        targets: What is searched, in the order of the particles' blocks.
        particles: (n, units).
        device: Where the masks are used.
    """
    parts = split_blocks(particles, [target.block for target in targets])
    result = []
    for number in range(len(particles)):
        masks: dict[Call, LayerMask] = {}
        for target, part in zip(targets, parts, strict=True):
            if target.reads is None:
                mask = LayerMask(weight=weight_mask(target, part[number]).to(device))
                masks.update(dict.fromkeys(target.calls, mask))
                continue
            live = np.append(part[number].reshape(-1) == 0, True)  # the last place: channels of no unit here
            for call, units in target.reads.items():
                own = torch.from_numpy(live[units]).to(device)
                before = masks.get(call, LayerMask())
                both = own if before.inputs is None else before.inputs & own
                masks[call] = replace(before, inputs=both)
        result.append(masks)
    return result
