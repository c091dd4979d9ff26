"""Who wins in a trained FBS network, and the network laid out by it.

In a trained network some channels never win and others always do (M-CifarNet at density 0.5: a quarter and a third).
A channel that never wins is 0 everywhere and can go, with its row and column of the predictors. The others are put
in the order of how often they win: those that always do come first, so that their weights lie together and need no
squeezing. `k`, the number of winners, stays. That channels never win was seen on some images; on others the next best
ones would take their place.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from compressor.graph import ChannelGraph, ChannelGroup, LayerChannels, Units, trace
from compressor.methods.fbs import layers
from compressor.methods.fbs_layer import FBSConv2d
from compressor.methods.fbs_watching import watch

__all__ = ["Wins", "channel_graph", "count_wins", "order_by_wins"]


@dataclass(frozen=True, eq=False)
class Wins:
    """How often each channel of one FBS layer won.

    Attributes:
        counts: (K,) images in which it was among the winners.
        images: how many there were.
    """

    counts: npt.NDArray[np.int64]
    images: int

    @property
    def never(self) -> int:
        """Channels that won in no image."""
        return int((self.counts == 0).sum())

    @property
    def always(self) -> int:
        """Channels that won in every image."""
        return int((self.counts == self.images).sum())


def count_wins(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Wins]:
    """Returns the wins of every FBS layer by module name, at its present density.

    Args:
        model: in evaluation mode, with FBS attached.
        batches: (N, C, H, W) each, on the model's device.

    Raises:
        ValueError: there is no image.
    """
    counts: dict[str, Tensor] = {}

    def note(name: str, layer: FBSConv2d, x: Tensor) -> None:
        mask = layer.saliency_and_mask(x)[1].sum(dim=0)
        counts[name] = counts[name] + mask if name in counts else mask

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: note(name, layer, inputs[0]))
        for name, layer in layers(model).items()
    ]
    images = watch(model, batches, hooks)
    return {name: Wins(count.cpu().numpy(), images) for name, count in counts.items()}


def channel_graph(model: nn.Module, example: Tensor) -> ChannelGraph:
    """Returns the channel graph of a network with FBS attached, predictors and shifts included.

    It is that of the same network with plain convolutions, whose axes an FBS layer's parts share.

    Raises:
        GraphError: the network cannot be traced.
    """
    plain = copy.deepcopy(model)
    dynamic = layers(plain)
    for name, layer in dynamic.items():
        parent, _, attribute = name.rpartition(".")
        setattr(plain.get_submodule(parent), attribute, layer.conv)
    graph = trace(plain.eval(), example)
    axes: dict[str, tuple[Units | None, ...]] = {}
    for path, dims in graph.axes.items():
        owner = path.removesuffix(".weight")
        axes.update(_fbs_axes(owner, dims) if owner in dynamic else {path: dims})
    shapes = {
        f"{path.removesuffix('.weight')}.conv.weight" if path.removesuffix(".weight") in dynamic else path: shape
        for path, shape in graph.shapes.items()
    }
    calls: list[LayerChannels] = []
    for call in graph.layers:
        if call.name not in dynamic:
            calls.append(call)
            continue
        calls.append(replace(call, name=f"{call.name}.conv", weight=f"{call.name}.conv.weight"))
        calls.append(LayerChannels(f"{call.name}.bn", "batch_norm", None, call.outputs, call.outputs))
    return replace(graph, axes=axes, shapes=shapes, layers=tuple(calls), branches=())


def _fbs_axes(name: str, weight: tuple[Units | None, ...]) -> dict[str, tuple[Units | None, ...]]:
    outputs, inputs = weight[:2]
    vectors = ("bn.running_mean", "bn.running_var", "beta", "saliency_bias")
    return {
        f"{name}.conv.weight": weight,
        f"{name}.saliency_weight": (inputs, outputs),
        **{f"{name}.{vector}": (outputs,) for vector in vectors},
    }


def order_by_wins(
    model: nn.Module, graph: ChannelGraph, wins: Mapping[str, Wins], *, keep_never: bool = False
) -> dict[str, tuple[int, ...]]:
    """Returns, for `shrink.arrange`, the units of each group that stay, those that win most often first.

    1. A group that FBS layers alone make: units that won in none of them go, unless `keep_never`. Where winners are
       chosen in blocks, whole blocks go and move; a last, narrower one stays last.
    2. One of whose makers is dense, normalises its saliencies (they depend on all channels), has its shift outside
       the product (where channels of saliency 0 tie, the lower one must still win), or chooses other blocks than
       another maker: it stays as it is.
    3. One that a normalisation holds (a silent channel would come out of it as a constant): likewise.

    Args:
        model: the network.
        graph: its `channel_graph`.
        wins: its `count_wins`.
        keep_never: only the order changes.
    """
    dynamic = layers(model)
    found = {}
    for group in graph.groups:
        if group.frozen is not None or not _wins_alone(group, graph, dynamic):
            continue
        block = _block(group, graph, dynamic)
        if block is None:
            continue
        # Of several makers' wins the sum: 0 where none ever wins, largest where all always do.
        total = np.zeros(group.size, np.int64)
        for call in graph.layers:
            name = call.name.removesuffix(".conv")
            if name in group.makers and call.name != name:
                inside = (call.outputs >= group.start) & (call.outputs < group.start + group.size)
                np.add.at(total, call.outputs[inside] - group.start, wins[name].counts[inside])
        found[group.name] = _by_wins(total, block, keep_never=keep_never)
    return {name: units for name, units in found.items() if units != tuple(range(graph.group(name).size))}


def _by_wins(total: npt.NDArray[np.int64], block: int, *, keep_never: bool) -> tuple[int, ...]:
    """Units in the order of their blocks' wins; a last, narrower block stays last."""
    firsts = np.arange(0, len(total), block)
    wins = np.add.reduceat(total, firsts)
    whole = len(total) // block
    order = [*np.argsort(-wins[:whole], kind="stable"), *range(whole, len(firsts))]
    kept = [firsts[number] for number in order if keep_never or wins[number]]
    return tuple(int(unit) for first in kept for unit in range(first, min(first + block, len(total))))


def _block(group: ChannelGroup, graph: ChannelGraph, dynamic: Mapping[str, FBSConv2d]) -> int | None:
    """Channels that win together in all makers of a group; None where its units do not fall into the makers' blocks."""
    blocks = {dynamic[maker].options.winner_block for maker in group.makers}
    if blocks == {1}:
        return 1
    units = group.start + np.arange(group.size)
    makers = [call for call in graph.layers if call.macs and call.name.removesuffix(".conv") in group.makers]
    aligned = all(np.array_equal(call.outputs, units) for call in makers)
    return blocks.pop() if len(blocks) == 1 and aligned else None


def _wins_alone(group: ChannelGroup, graph: ChannelGraph, dynamic: Mapping[str, FBSConv2d]) -> bool:
    for maker in group.makers:
        layer = dynamic.get(maker)
        if layer is None or layer.options.normalize or layer.options.form != "paper":
            return False
    own = {f"{maker}.bn" for maker in group.makers}
    for call in graph.layers:
        inside = (call.inputs >= group.start) & (call.inputs < group.start + group.size)
        if not call.macs and call.name not in own and inside.any():
            return False
    return bool(group.makers)
