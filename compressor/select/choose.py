"""`select`: scores and a budget become a plan.

Which counts, `search` finds; widths are those the target likes (`alignment`), layers those the `limits` allow; where a
`clock` says what time they take, `quicken` looks for a faster plan that is as good. A group always keeps its best
units; equal scores keep the lower index.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from compressor.costs.widths import Counts, planned_macs, planned_params, width_costs
from compressor.errors import BudgetError
from compressor.graph import ChannelGraph
from compressor.plan import PruningPlan
from compressor.select.alignment import allowed_counts, whole_blocks
from compressor.select.budget import TOLERANCE, Budget
from compressor.select.clock import Clock
from compressor.select.limits import Limits, floors, may_cut
from compressor.select.quicken import quicken
from compressor.select.search import Search, search_counts

__all__ = ["Choices", "find_choices", "refuse", "select"]

_Floats = npt.NDArray[np.float64]
_BLOCKS_SLACK = 0.25  # more score that whole blocks may give up: on RegNet 15 to 24 %, for 1.3 to 1.45x the speed


def select(
    graph: ChannelGraph,
    scores: Mapping[str, torch.Tensor],
    *,
    budget: Budget,
    limits: Limits | None = None,
    step: int = 1,
    clock: Clock | None = None,
) -> PruningPlan:
    """Returns the plan that meets a budget and gives up the least score.

    Args:
        graph: the network's channel graph.
        scores: group name → (units,), larger is kept, comparable between groups; every group that may be cut.
        budget: what to reach, within 2 %.
        limits: layers to leave alone and least widths.
        step: channels a layer should be a multiple of (`STEPS`); 1 takes any width.
        clock: predicts latency; of plans that are as good otherwise the fastest is taken (`quicken`), and a budget
            of latency can be met.

    Raises:
        BudgetError: the budget cannot be met; says the closest reachable.
        ValueError: scores are missing, not finite or of the wrong length, or a pattern names no layer.
    """
    choices = find_choices(graph, budget=budget, limits=limits, step=step, clock=clock)
    ranked = _ranked(graph, scores, [len(a) > 1 for a in choices.allowed])
    search = Search(choices.allowed, ranked, choices.cost, choices.target, choices.branches)
    counts = search_counts(search)
    search, counts = _in_blocks(graph, search, counts, step)
    if search.off(counts) > TOLERANCE:
        refuse(choices, counts)
    if clock is not None and budget.kind != "latency":
        tables = width_costs(graph)
        counts = quicken(search, counts, clock=clock, macs=lambda kept: planned_macs(tables, kept))
    order = {g.name: _best_first(scores[g.name]) for g, n in zip(graph.groups, counts, strict=True) if n < g.size}
    kept = dict(zip((g.name for g in graph.groups), counts.tolist(), strict=True))
    keep = {name: tuple(sorted(units[: kept[name]].tolist())) for name, units in order.items()}
    return PruningPlan(keep, {name: len(units) for name, units in order.items()})


@dataclass(frozen=True, eq=False)
class Choices:
    """Which unit counts a selection may give each group, and what they cost.

    Attributes:
        allowed: counts each group may have, ascending.
        branches: groups that are cut to nothing together only.
        cost: cost of counts.
        target: what the cost should be.
        budget: where the target comes from.
        step: channels a layer should be a multiple of.
        advice: what the user can do to widen the range of costs; empty where nothing is left to allow.
    """

    allowed: list[Counts]
    branches: list[list[int]]
    cost: Callable[[Counts], float]
    target: float
    budget: Budget
    step: int
    advice: tuple[str, ...] = ()


def find_choices(
    graph: ChannelGraph,
    *,
    budget: Budget,
    limits: Limits | None = None,
    step: int = 1,
    min_keep: float = 0.0,
    clock: Clock | None = None,
) -> Choices:
    """Returns what a selection may choose from.

    Args:
        graph: the network's channel graph.
        budget: what to reach.
        limits: layers to leave alone and least widths.
        step: channels a layer should be a multiple of; 1 takes any width.
        min_keep: least share of each group's units that stays, rounded down; a branch that may go goes all the same.
        clock: predicts latency, for a budget of latency.

    Raises:
        ValueError: a pattern names no layer, or a budget of latency comes without a clock.
    """
    limits = limits or Limits()
    least = floors(graph, limits)
    allowed = [
        allowed_counts(g, step, max(f, int(min_keep * g.size))) if f < g.size else np.array([g.size], dtype=np.int64)
        for g, f in zip(graph.groups, least, strict=True)
    ]
    cost, target = _cost(graph, budget, clock)
    allowed = _that_count(allowed, cost)
    branches = _removable(graph, least) if limits.remove_branches else []
    for group in {g for branch in branches for g in branch}:
        allowed[group] = np.append(0, allowed[group])
    return Choices(allowed, branches, cost, target, budget, step, _advice(graph, limits, least, step, min_keep))


def _advice(graph: ChannelGraph, limits: Limits, least: list[int], step: int, min_keep: float) -> tuple[str, ...]:
    """What of the user's own limits, of the method's and of the network's keeps costs up, as things to do."""
    free = [(group, floor) for group, floor in zip(graph.groups, least, strict=True) if group.frozen is None]
    advice = []
    if step > 1 and free:
        advice.append("allow any width (--align off)")
    if limits.keep_min and any(floor > 1 for group, floor in free if may_cut(group, limits)):
        advice.append("lower --keep-min")
    if limits.exclude and not all(may_cut(group, limits) for group, _ in free):
        advice.append("exclude fewer layers")
    if limits.include and not all(may_cut(group, limits) for group, _ in free):
        advice.append("include more layers")
    if any(int(min_keep * group.size) > floor for group, floor in free):
        advice.append(f"lower --set min_keep (it is {min_keep:g})")
    return tuple(advice)


def _in_blocks(graph: ChannelGraph, search: Search, counts: Counts, step: int) -> tuple[Search, Counts]:
    """Returns the search and counts that leave grouped convolutions in whole blocks, where that costs little score."""
    blocks = replace(search, allowed=whole_blocks(graph, search.allowed, step) if step > 1 else search.allowed)
    if all(len(a) == len(b) for a, b in zip(blocks.allowed, search.allowed, strict=True)):
        return search, counts
    found = search_counts(blocks)
    worse = search.lost(found) > (1 + _BLOCKS_SLACK) * search.lost(counts) and search.off(counts) <= TOLERANCE
    return (search, counts) if worse or blocks.off(found) > TOLERANCE else (blocks, found)


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


def _cost(graph: ChannelGraph, budget: Budget, clock: Clock | None) -> tuple[Callable[[Counts], float], float]:
    """Returns (cost of counts, what it should be)."""
    tables, full = width_costs(graph), np.array([g.size for g in graph.groups], dtype=np.int64)
    free = np.array([g.frozen is None for g in graph.groups], dtype=bool)
    costs: dict[str, Callable[[Counts], float]] = {
        "macs": lambda counts: planned_macs(tables, counts),
        "params": lambda counts: planned_params(tables, counts),
        "density": lambda counts: float(counts[free].sum()),
    }
    if clock is not None:
        costs["latency"] = clock.latency_ms
    if budget.kind not in costs:
        raise ValueError("a budget of latency needs the times of a machine: run `compress profile`, keep --align auto")
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


def refuse(choices: Choices, counts: Counts) -> NoReturn:
    """Raises BudgetError with the closest that can be reached: the cost of `counts`."""
    full = choices.cost(np.array([a[-1] for a in choices.allowed], dtype=np.int64))
    least = choices.cost(np.array([a[0] for a in choices.allowed], dtype=np.int64))
    reached = choices.cost(counts)

    def text(cost: float) -> str:
        return f"{cost / full:.3g}x" if choices.budget.relative else f"{cost:,.0f}"

    refused = (
        f"{choices.budget.kind}={text(choices.target)} cannot be met within 2 %; closest reachable is {text(reached)}"
    )
    if least == full:
        allow = "".join(f"{way}; " for way in choices.advice)
        raise BudgetError(
            f"{refused}, as no channel may be cut; {allow}'compress inspect' says what is frozen and why; --method fbs "
            "cuts none, and may still skip some"
        )
    advice = ", ".join(("ask for the closest", *choices.advice))
    raise BudgetError(
        f"{refused}, and the range here is {text(least)} to {text(full)}; {advice}, or see in 'compress inspect' what "
        "is frozen"
    )
