"""`select`: scores and a budget become a plan.

Which counts, `search` finds; widths are those the target likes (`alignment`), layers those the `limits` allow. A group
always keeps its best units; equal scores keep the lower index.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from compressor.costs.widths import Counts, planned_macs, planned_params, width_costs
from compressor.errors import BudgetError
from compressor.graph import ChannelGraph
from compressor.plan import PruningPlan
from compressor.select.alignment import allowed_counts
from compressor.select.budget import TOLERANCE, Budget
from compressor.select.limits import Limits, floors
from compressor.select.search import Search, search_counts

__all__ = ["select"]

_Floats = npt.NDArray[np.float64]


def select(
    graph: ChannelGraph,
    scores: Mapping[str, torch.Tensor],
    *,
    budget: Budget,
    limits: Limits | None = None,
    step: int = 1,
) -> PruningPlan:
    """Returns the plan that meets a budget and gives up the least score.

    Args:
        graph: the network's channel graph.
        scores: group name → (units,), larger is kept, comparable between groups; every group that may be cut.
        budget: what to reach, within 2 %.
        limits: layers to leave alone and least widths.
        step: channels a layer should be a multiple of (`STEPS`); 1 takes any width.

    Raises:
        BudgetError: the budget cannot be met; says the closest reachable.
        ValueError: scores are missing, not finite or of the wrong length, or a pattern names no layer.
    """
    limits = limits or Limits()
    least = floors(graph, limits)
    allowed = [
        allowed_counts(g, step, f) if f < g.size else np.array([g.size], dtype=np.int64)
        for g, f in zip(graph.groups, least, strict=True)
    ]
    cost, target = _cost(graph, budget)
    allowed = _that_count(allowed, cost)
    branches = _removable(graph, least) if limits.remove_branches else []
    for group in {g for branch in branches for g in branch}:
        allowed[group] = np.append(0, allowed[group])
    ranked = _ranked(graph, scores, [len(a) > 1 for a in allowed])
    search = Search(allowed, ranked, cost, target, branches)
    counts = search_counts(search)
    if search.off(counts) > TOLERANCE:
        _refuse(search, budget, counts, step)
    order = {g.name: _best_first(scores[g.name]) for g, n in zip(graph.groups, counts, strict=True) if n < g.size}
    kept = dict(zip((g.name for g in graph.groups), counts.tolist(), strict=True))
    keep = {name: tuple(sorted(units[: kept[name]].tolist())) for name, units in order.items()}
    return PruningPlan(keep, {name: len(units) for name, units in order.items()})


def _best_first(scores: torch.Tensor) -> npt.NDArray[np.int64]:
    return np.argsort(-scores.detach().double().cpu().numpy(), kind="stable")


def _removable(graph: ChannelGraph, least: list[int]) -> list[list[int]]:
    """Returns the groups of each branch that may go: none of its groups is kept whole or has a floor."""
    index = {group.name: i for i, group in enumerate(graph.groups)}
    branches = [[index[name] for name in branch.groups] for branch in graph.branches]
    return [b for b in branches if all(least[g] <= 1 and least[g] < graph.groups[g].size for g in b)]


def _ranked(graph: ChannelGraph, scores: Mapping[str, torch.Tensor], needed: list[bool]) -> list[_Floats]:
    """Returns each group's scores, best first; zeros for groups that stay whole."""
    ranked = []
    for group, wanted in zip(graph.groups, needed, strict=True):
        if not wanted:
            ranked.append(np.zeros(group.size))
            continue
        if group.name not in scores:
            raise ValueError(f"no scores for group {group.name!r}; the method must score every group that may be cut")
        given = scores[group.name].detach().double().cpu().numpy()
        if given.shape != (group.size,) or not np.isfinite(given).all():
            raise ValueError(f"scores of {group.name!r} must be {group.size} finite numbers, got shape {given.shape}")
        ranked.append(-np.sort(-given))
    return ranked


def _cost(graph: ChannelGraph, budget: Budget) -> tuple[Callable[[Counts], float], float]:
    """Returns (cost of counts, what it should be)."""
    tables, full = width_costs(graph), np.array([g.size for g in graph.groups], dtype=np.int64)
    free = np.array([g.frozen is None for g in graph.groups], dtype=bool)
    costs: dict[str, Callable[[Counts], float]] = {
        "macs": lambda counts: planned_macs(tables, counts),
        "params": lambda counts: planned_params(tables, counts),
        "density": lambda counts: float(counts[free].sum()),
    }
    cost = costs[budget.kind]
    return cost, budget.value * cost(full) if budget.relative else budget.value


def _that_count(allowed: list[Counts], cost: Callable[[Counts], float]) -> list[Counts]:
    """Leaves groups whole that cost nothing, such as auxiliary heads which only training runs."""
    full = np.array([a[-1] for a in allowed], dtype=np.int64)
    dense = cost(full)

    def counts_for(group: int) -> bool:
        less = full.copy()
        less[group] = allowed[group][0]
        return cost(less) < dense

    return [a if len(a) == 1 or counts_for(g) else a[-1:] for g, a in enumerate(allowed)]


def _refuse(search: Search, budget: Budget, counts: Counts, step: int) -> None:
    full = search.cost(np.array([a[-1] for a in search.allowed], dtype=np.int64))
    least = search.cost(np.array([a[0] for a in search.allowed], dtype=np.int64))
    reached = search.cost(counts)

    def text(cost: float) -> str:
        return f"{cost / full:.3g}x" if budget.relative else f"{cost:,.0f}"

    hint = "allow any width (--align off), " if step > 1 else ""
    raise BudgetError(
        f"{budget.kind}={text(search.target)} cannot be met within 2 %; closest reachable is {text(reached)}, "
        f"and the range here is {text(least)} to {text(full)}; {hint}lower --keep-min or exclude fewer layers"
    )
