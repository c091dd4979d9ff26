"""Channels in another order: what a network computes stays the same, where its weights lie does not."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compressor.graph import ChannelGraph, Units
from compressor.graph.narrow import narrowed
from compressor.plan import PruningPlan
from compressor.shrink.masks import kept_units
from compressor.shrink.surgery import check_network, shrink

__all__ = ["arrange"]


def arrange(model: nn.Module, graph: ChannelGraph, order: Mapping[str, Sequence[int]]) -> nn.Module:
    """Returns a copy of a network whose groups hold the listed units, in the listed order.

    Every layer that makes or reads a group's channels is cut and permuted alike.

    >>> arrange(model, graph, {"conv1": (2, 0)})  # of conv1's units 0, 1, 2 the last becomes the first, 1 goes

    Args:
        model: the network the graph was traced from; not changed.
        graph: its channel graph.
        order: group name → old number of each unit that stays, in its new place; a group not listed stays as it is.

    Raises:
        PlanError: a group or a unit does not exist, or a unit is listed twice.
    """
    keep = {name: tuple(sorted(units)) for name, units in order.items()}
    sizes = {group.name: group.size for group in graph.groups if group.name in keep}
    plan = PruningPlan(keep, {name: sizes.get(name, 0) for name in keep})
    check_network(model, graph)
    slim = shrink(model, graph, plan)
    left = narrowed(graph, kept_units(graph, plan))
    place = np.arange(left.num_units)  # of each unit of `left`, the unit that it becomes
    for group in left.groups:
        if group.name in order:
            # A unit's rank among those that stay is its number in `left`.
            ranks = np.argsort(np.argsort(np.asarray(order[group.name], dtype=np.int64)))
            place[group.start + ranks] = group.start + np.arange(group.size)
    with torch.no_grad():
        for path, tensor in [*slim.named_parameters(), *slim.named_buffers()]:
            for dim, units in enumerate(left.axes.get(path, ())):
                if units is not None and not np.array_equal(source := _sources(units, place), np.arange(len(units))):
                    tensor.copy_(tensor.index_select(dim, torch.as_tensor(source, device=tensor.device)))
    return slim


def _sources(units: Units, place: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns which old place each place of an axis takes its values from; a unit's places keep their order."""
    sources = np.arange(len(units))
    held = np.flatnonzero(units >= 0)
    sources[held[np.argsort(units[held], kind="stable")]] = held[np.argsort(place[units[held]], kind="stable")]
    return sources
