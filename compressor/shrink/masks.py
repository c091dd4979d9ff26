"""From a plan to the units that stay, and the network with cut channels silenced instead of removed."""

import copy

import numpy as np
import torch
from torch import nn

from compressor.graph import Branch, ChannelGraph
from compressor.graph.cut import Keep, kept_places
from compressor.plan import PruningPlan, check_plan
from compressor.shrink.taps import silence_taps

__all__ = ["kept_units", "removed_branches", "silence"]


def removed_branches(graph: ChannelGraph, plan: PruningPlan) -> tuple[Branch, ...]:
    """Returns the residual branches that a plan cuts to nothing."""
    return tuple(b for b in graph.branches if all(plan.keep.get(name) == () for name in b.groups))


def kept_units(graph: ChannelGraph, plan: PruningPlan) -> Keep:
    """Returns (units,) booleans: True where a unit stays.

    Raises:
        PlanError: the plan does not fit the graph.
    """
    check_plan(plan, graph, removable=[n for b in removed_branches(graph, plan) for n in b.groups])
    keep = np.ones(graph.num_units, dtype=bool)
    for group in graph.groups:
        if group.name in plan.keep:
            keep[group.start : group.start + group.size] = False
            keep[group.start + np.array(plan.keep[group.name], dtype=np.int64)] = True
    return keep


def silence(model: nn.Module, graph: ChannelGraph, plan: PruningPlan) -> nn.Module:
    """Returns a dense copy of a network in which everything a plan would cut is zero.

    What shrinking must equal: weights into, out of and inside the cut channels are 0, the shape stays.
    """
    keep = kept_units(graph, plan)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        for path, tensor in [*dense.named_parameters(), *dense.named_buffers()]:
            for dim, units in enumerate(graph.axes.get(path, ())):
                if units is not None:
                    gone = np.setdiff1d(np.arange(len(units)), kept_places(units, keep))
                    tensor.index_fill_(dim, torch.as_tensor(gone, device=tensor.device), 0)
        silence_taps(dense, plan.taps)
    return dense
