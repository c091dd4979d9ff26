"""Where RBP (reconstruction) puts noise: the steps of its chain over a channel graph, in forward order.

One step is one channel group; its noise is on the inputs of all layers that mix the group's channels into others
(convolutions and linear layers; after a flatten one noise per map). A depthwise convolution mixes nothing, and a batch
norm behind it would take the scale back: its input has no noise. No step:

1. frozen groups;
2. *trunks*, groups that several layers write at one resolution and add up (residual sums), unless asked for;
3. groups with a reader that cannot carry noise: a bare function, a layer that is called twice or shares its weights.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from compressor.graph import ChannelGraph, ChannelGroup, LayerChannels, Units

__all__ = ["ChainStep", "Reader", "find_steps", "unit_macs"]

_Mixing = nn.modules.conv._ConvNd | nn.Linear


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads a group.

    Attributes:
        name: its path.
        index: (in_channels,) unit of the group, counted from 0; the group's size where a channel is of none.
    """

    name: str
    index: Units


@dataclass(frozen=True, eq=False)
class ChainStep:
    """One step of the chain.

    Attributes:
        group: name of the channel group.
        readers: in execution order.
        weights: (units,) factors of the divergence.
    """

    group: str
    readers: tuple[Reader, ...]
    weights: npt.NDArray[np.float64]


def find_steps(
    model: nn.Module, graph: ChannelGraph, *, trunks: bool = False, macs_weighted: bool = False
) -> tuple[list[ChainStep], dict[str, str]]:
    """Returns the steps in the order in which their groups are first read, and group -> why it is none.

    Args:
        model: the network of the graph.
        graph: its channel graph.
        trunks: residual sums too, one noise vector each.
        macs_weighted: a unit's divergence counts as its share of the multiply-accumulates, mean 1 over all steps.
    """
    left: dict[str, str] = {}
    found: list[tuple[int, ChannelGroup, tuple[Reader, ...]]] = []
    modules = dict(model.named_modules())
    calls = [layer.name for layer in graph.layers]
    tied = {*graph.aliases, *graph.aliases.values()}
    for group in graph.groups:
        if group.frozen is not None:
            continue
        readers = [(at, layer) for at, layer in enumerate(graph.layers) if _mixes(layer, group)]
        unfit = [
            layer.name
            for _, layer in readers
            if not isinstance(modules.get(layer.name), _Mixing) or calls.count(layer.name) > 1 or layer.weight in tied
        ]
        if not readers:
            left[group.name] = "no convolution or linear layer reads it"
        elif unfit:
            names = ", ".join(dict.fromkeys(unfit))
            left[group.name] = f"{names} cannot carry noise (a bare function, called twice or tied)"
        elif not trunks and _is_trunk(graph, group):
            left[group.name] = "a residual sum; --set trunks=true prunes these too"
        else:
            places = tuple(Reader(layer.name, _index(layer.inputs, group)) for _, layer in readers)
            found.append((readers[0][0], group, places))
    found.sort(key=lambda step: step[0])
    macs = unit_macs(graph)
    mean = np.concatenate([macs[g.start : g.start + g.size] for _, g, _ in found]).mean() if found else 1.0
    steps = []
    for _, group, places in found:
        own = macs[group.start : group.start + group.size] / mean
        steps.append(ChainStep(group.name, places, own if macs_weighted else np.ones(group.size)))
    return steps, left


def unit_macs(graph: ChannelGraph) -> npt.NDArray[np.float64]:
    """Returns (units,): multiply-accumulates per sample that go with each unit alone, at its writers and readers."""
    total = np.zeros(graph.num_units)
    for layer in graph.layers:
        depthwise = layer.groups > 1 and layer.groups == len(layer.inputs)
        for units in (layer.outputs,) if depthwise else (layer.inputs, layer.outputs):
            inside = units[units >= 0]
            np.add.at(total, inside, layer.macs / max(len(units), 1))
    return total


def _mixes(layer: LayerChannels, group: ChannelGroup) -> bool:
    """Whether a layer reads channels of a group and makes others, or sums, of them."""
    depthwise = layer.groups > 1 and layer.groups == len(layer.inputs)
    return layer.macs > 0 and not depthwise and bool(_inside(layer.inputs, group).any())


def _inside(units: Units, group: ChannelGroup) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = (units >= group.start) & (units < group.start + group.size)
    return inside


def _index(units: Units, group: ChannelGroup) -> Units:
    return np.where(_inside(units, group), units - group.start, group.size).astype(np.int64)


def _is_trunk(graph: ChannelGraph, group: ChannelGroup) -> bool:
    """Whether several layers write the group's channels at one resolution.

    A depthwise convolution passes them on, and the last layer of a squeeze-excite, at one pixel, weighs them.
    """
    pixels: dict[str, float] = {}
    for layer in graph.layers:
        passed_on = layer.groups > 1 and layer.groups == len(layer.inputs)
        if layer.macs and layer.weight and not passed_on and _inside(layer.outputs, group).any():
            weights = graph.shapes[graph.aliases.get(layer.weight, layer.weight)]
            pixels[layer.name] = layer.macs / float(np.prod(weights))
    most = max(pixels.values(), default=0.0)
    return sum(count > 0.5 * most for count in pixels.values()) > 1
