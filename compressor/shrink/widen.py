"""Channels of zeros: a width that a runtime computes fast, and what the network computes stays the same."""

import copy
from collections.abc import Mapping

import numpy as np
from torch import nn

from compressor.errors import PlanError
from compressor.graph import ChannelGraph, ChannelGroup, Units
from compressor.graph.cut import Places, resize
from compressor.shrink.surgery import check_network

__all__ = ["can_widen", "widen"]


def widen(model: nn.Module, graph: ChannelGraph, add: Mapping[str, int]) -> nn.Module:
    """Returns a copy of a network with units of zeros behind the last unit of some groups.

    Zero weights write a new channel and zero weights read it, so the network computes what it did: it is what
    `silence` makes of a wider one. For inference: training can change those zeros (where an activation of 0 is not 0).

    >>> widen(model, graph, {"conv1": 3})  # 13 channels become 16

    Args:
        model: the network the graph was traced from; not changed.
        graph: its channel graph.
        add: group name → how many units it gains; a group not listed stays as it is.

    Raises:
        PlanError: a group does not exist, cannot be widened, or the graph is not the network's.
    """
    groups = {group.name: group for group in graph.groups}
    for name in add:
        if name not in groups or not can_widen(graph, groups[name]):
            raise PlanError(f"group {name!r} cannot be widened: it does not exist, is frozen or lies in pieces")
    check_network(model, graph)
    gained = [(groups[name], units) for name, units in add.items() if units]
    wide = copy.deepcopy(model)
    resize(wide, graph, lambda units: _widened(units, gained))
    return wide


def can_widen(graph: ChannelGraph, group: ChannelGroup) -> bool:
    """Returns whether a group is not frozen and all its channels lie side by side, in order, wherever they are held."""
    if group.frozen is not None or group.width != 1:
        return False
    for layer in graph.layers:
        if 1 < layer.groups < len(layer.inputs) and (
            _held(layer.inputs, group).size or _held(layer.outputs, group).size
        ):
            return False
    axes = (units for entry in graph.axes.values() for units in entry if units is not None)
    return all(_runs(units, group) is not None for units in axes)


def _held(units: Units, group: ChannelGroup) -> Places:
    """Returns the places of an axis that hold a group."""
    return np.flatnonzero((units >= group.start) & (units < group.start + group.size))


def _runs(units: Units, group: ChannelGroup) -> tuple[Places, int] | None:
    """Returns where each copy of a group on an axis ends, and the places of one unit; None where it is in pieces."""
    places = _held(units, group)
    if not places.size:
        return places, 0
    unit = units[places] - group.start
    each = int((unit == 0).argmin()) if (unit != 0).any() else len(unit)
    copies = places.reshape(-1, group.size * each) if each and len(places) % (group.size * each) == 0 else None
    if copies is None or (np.diff(copies) != 1).any():
        return None
    if (unit.reshape(copies.shape) != np.repeat(np.arange(group.size), each)).any():
        return None
    return copies[:, -1], each


def _widened(units: Units, gained: list[tuple[ChannelGroup, int]]) -> Places:
    """Returns which old place each new place of an axis takes its values from; -1 where it is zero."""
    sources = np.arange(len(units))
    inserts: list[tuple[int, int]] = []
    for group, extra in gained:
        found = _runs(units, group)
        assert found is not None
        inserts += [(int(last) + 1, extra * found[1]) for last in found[0]]
    at = [place for place, count in inserts for _ in range(count)]
    return np.insert(sources, at, -1)
