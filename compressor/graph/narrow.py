"""The channel graph of a network after a cut, without tracing it again."""

from dataclasses import replace

import numpy as np

from compressor.graph.channel_graph import ChannelGraph, LayerChannels, Units
from compressor.graph.cut import Keep, kept_places

__all__ = ["narrowed"]


def narrowed(graph: ChannelGraph, keep: Keep) -> ChannelGraph:
    """Returns the graph of what `shrink` leaves: the same groups and layers, fewer units, numbered anew.

    As `trace` would find it, but for the names' order and for blocks that are cut to nothing.

    Args:
        graph: of the network before the cut.
        keep: (units,) True where a unit stays; at least one of every group.

    Raises:
        ValueError: a group would be left without units.
    """
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    groups, start = [], 0
    for group in graph.groups:
        size = int(keep[group.start : group.start + group.size].sum())
        if not size:
            raise ValueError(f"group {group.name!r} would be left without units; keep one at least")
        groups.append(replace(group, start=start, size=size))
        start += size

    def cut(units: Units) -> Units:
        left = units[kept_places(units, keep)]
        return np.where(left >= 0, number[left], left).astype(np.int64)

    axes = {path: tuple(None if u is None else cut(u) for u in dims) for path, dims in graph.axes.items()}
    shapes = {
        path: tuple(
            size if units is None else len(units)
            for size, units in zip(shape, axes.get(path, (None,) * len(shape)), strict=True)
        )
        for path, shape in graph.shapes.items()
    }
    layers = tuple(_layer(layer, cut(layer.inputs), cut(layer.outputs)) for layer in graph.layers)
    return replace(graph, groups=tuple(groups), layers=layers, axes=axes, shapes=shapes)


def _layer(layer: LayerChannels, inputs: Units, outputs: Units) -> LayerChannels:
    depthwise = layer.groups > 1 and layer.groups == len(layer.inputs)
    macs = layer.macs * len(outputs) / max(len(layer.outputs), 1)
    if not depthwise:
        macs *= len(inputs) / max(len(layer.inputs), 1)
    groups = len(inputs) if depthwise else layer.groups
    if layer.kind == "group_norm":
        groups = layer.groups * len(inputs) // len(layer.inputs)
    return replace(layer, inputs=inputs, outputs=outputs, macs=round(macs), groups=groups)
