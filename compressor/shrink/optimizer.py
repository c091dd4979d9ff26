"""Optimizer state carried over a cut: momenta and averages of the channels that stay."""

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from compressor.graph import ChannelGraph
from compressor.graph.cut import sliced
from compressor.plan import PruningPlan
from compressor.shrink.masks import kept_units, removed_branches
from compressor.shrink.taps import kept_taps

__all__ = ["remap_optimizer"]


def remap_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, slim: nn.Module, *, graph: ChannelGraph, plan: PruningPlan
) -> torch.optim.Optimizer:
    """Returns an optimizer of the same kind and settings for the shrunk network, its state cut alongside.

    State tensors of a parameter's own shape lose the parameter's cut places; all other state is copied. Parameters of a
    removed branch are dropped, the constant that is left of it starts without state.

    Args:
        optimizer: holds parameters of `model`; not changed.
        model: the dense network.
        slim: what `shrink(model, graph, plan)` returned.
        graph: channel graph of `model`.
        plan: the plan `slim` was made with.

    Raises:
        ValueError: the optimizer holds a parameter that is not the network's.
    """
    keep = kept_units(graph, plan)
    path_of = {id(p): path for path, p in model.named_parameters()}
    slim_at = dict(slim.named_parameters())
    moved = {f"{b.shortcut}.": f"{b.name}.shortcut." for b in removed_branches(graph, plan) if b.shortcut}
    removed = tuple(f"{b.name}." for b in removed_branches(graph, plan))

    def slim_parameter(path: str) -> nn.Parameter | None:
        for old, new in moved.items():
            if path.startswith(old):
                return slim_at[path.replace(old, new, 1)]
        return None if path.startswith(removed) else slim_at[path]

    foreign = sum(id(p) not in path_of for group in optimizer.param_groups for p in group["params"])
    if foreign:
        raise ValueError(f"{foreign} parameters of the optimizer are not the network's; give the network it trains")

    def carried(value: Any, path: str, shape: torch.Size) -> Any:  # Any: optimizers keep tensors, numbers, None
        if not isinstance(value, torch.Tensor):
            return copy.deepcopy(value)
        if value.shape != shape:
            return value.detach().clone()
        value = sliced(value, graph.axes.get(path, ()), keep)
        taps = plan.taps.get(path.removesuffix(".weight"))
        return (value if taps is None or value.dim() != 4 else kept_taps(value, taps)).detach().clone()

    groups, state = [], defaultdict(dict)  # type: ignore[var-annotated]  # torch's own untyped tables
    for group in optimizer.param_groups:
        settings = {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        pairs = [(p, slim_parameter(path_of[id(p)])) for p in group["params"]]
        groups.append({**settings, "params": [new for _, new in pairs if new is not None]})
        for p, new in pairs:
            if p in optimizer.state and new is not None:
                path = path_of[id(p)]
                state[new] = {k: carried(v, path, p.shape) for k, v in optimizer.state[p].items()}
    held = {id(p) for group in groups for p in group["params"]}
    left = [
        p for path, p in slim_at.items() if id(p) not in held and path.startswith(removed) and path.endswith(".shift")
    ]
    if groups and removed:
        groups[0]["params"] += left
    result = copy.copy(optimizer)  # same class, defaults and hooks; tables replaced below
    result.param_groups, result.state = groups, state
    return result
