"""`shrink`: the network a plan describes, as a plain module with fewer channels."""

import copy

from torch import nn

from compressor.errors import PlanError
from compressor.graph import ChannelGraph
from compressor.graph.cut import cut
from compressor.plan import PruningPlan
from compressor.shrink.masks import kept_units, removed_branches
from compressor.shrink.residue import remove_branch
from compressor.shrink.taps import cut_taps

__all__ = ["check_network", "shrink"]


def shrink(model: nn.Module, graph: ChannelGraph, plan: PruningPlan) -> nn.Module:
    """Returns a copy of a network without the channels, and without the taps of kernels, that a plan cuts.

    Parameters, batch-norm statistics and the settings of the layers (`in_channels`, `groups`, `num_features` …) have
    the new sizes; classes, names and hooks are those of the network. A block whose branch is cut to nothing becomes a
    `Residue`. The result computes what `silence` computes.

    Args:
        model: the network the graph was traced from, or a fresh one of the same architecture; not changed.
        graph: its channel graph.
        plan: kept units of each group.

    Raises:
        PlanError: the plan does not fit the graph, or the graph not the network.
    """
    keep = kept_units(graph, plan)
    check_network(model, graph)
    slim = copy.deepcopy(model)
    cut(slim, graph, keep)
    cut_taps(slim, plan.taps)
    removed = removed_branches(graph, plan)
    for branch in removed:
        if not any(branch.name.startswith(f"{outer.name}.") for outer in removed):
            remove_branch(slim, branch)
    return slim


def check_network(model: nn.Module, graph: ChannelGraph) -> None:
    """Raises `PlanError` when a graph was traced from another architecture."""
    have = {p: tuple(t.shape) for p, t in [*model.named_parameters(), *model.named_buffers()]}
    problems = []
    for path, axes in graph.axes.items():
        want = [None if units is None else len(units) for units in axes]
        shape = have.get(path)
        if shape is None:
            problems.append(f"no parameter {path!r}")
        elif len(shape) != len(want) or any(w is not None and w != s for w, s in zip(want, shape, strict=True)):
            problems.append(f"{path!r} has shape {shape}")
    if problems:
        shown = "; ".join(problems[:5]) + ("; …" if len(problems) > 5 else "")
        raise PlanError(f"{type(model).__name__} is not the network of this graph: {shown}; trace it again")
