"""Global pruning step by step: each Tick takes the least important filters of the whole network.

The procedure of Gate Decorator's released code (You et al. 2019), for any step of widths:

1. The next *block* of a group is its lowest live units down to the next width that is allowed: one unit where any
   is, 16 channels where widths should be multiples of 16, the whole branch where that may go. A group's best units, up
   to its floor, are in no block. A block is worth the mean score of its units.
2. Blocks go, least worth first, while fewer than `num_filters` filters are gone; a unit counts once for every layer
   that makes it. Blocks worth exactly 0 go as well and do not count: nothing depends on them. Ties: the earlier group,
   and in it the higher index.
3. A block without which the target would be out of reach, because widths are coarse, is passed over.
4. Where blocks bring the cost within 2 % of the target or below, the Tick is the last one: the search of `select` finds
   the counts, none above the present ones, whose cost is nearest to the target from below.

What is gone stays gone.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from compressor.costs.widths import Counts, count_units
from compressor.graph import ChannelGraph
from compressor.graph.cut import Keep
from compressor.select.budget import TOLERANCE
from compressor.select.choose import Choices, refuse
from compressor.select.search import Search, search_counts

__all__ = ["Pruned", "check_reachable", "prune_least"]

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pruned:
    """What one Tick left.

    Attributes:
        keep: (units,) True where a unit stays.
        counts: kept units of each group.
        num_filters: filters that went and count.
        reached: the budget is met, and no Tick needs to follow.
    """

    keep: Keep
    counts: Counts
    num_filters: int
    reached: bool


def check_reachable(graph: ChannelGraph, choices: Choices) -> None:
    """Raises BudgetError, with the closest reachable, where no counts meet the budget; takes no scores."""
    counts = _evenly(choices, np.array([g.size for g in graph.groups], dtype=np.int64))
    if not _meets(choices, counts):
        refuse(choices, counts)


def prune_least(
    graph: ChannelGraph,
    choices: Choices,
    keep: Keep,
    *,
    scores: torch.Tensor,
    filters: torch.Tensor,
    num_filters: int,
) -> Pruned:
    """Returns what stays after one Tick.

    Args:
        graph: the network's channel graph.
        choices: counts that are allowed, and the cost to bring to its target.
        keep: (units,) True where a unit is still there.
        scores: (units,) importance, at least 0, finite.
        filters: (units,) how many filters a unit is.
        num_filters: how many should go.

    Raises:
        BudgetError: nothing is left that may go, or no counts below the present ones meet the budget.
        ValueError: a score is below 0 or not finite, or a shape is wrong.
    """
    values = scores.detach().double().cpu().numpy()
    if values.shape != (graph.num_units,) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"scores must be {graph.num_units} finite numbers of at least 0, got shape {values.shape}")
    ranked = [_best_first(values, keep, g.start, g.size) for g in graph.groups]
    before = count_units(graph, keep)
    counts, gone = before.copy(), 0
    passed: set[int] = set()
    while (block := _least(choices, counts, values, ranked, passed)) is not None:
        if block.worth > 0.0 and gone >= num_filters:
            break
        if not _crosses(choices, block.counts) and not _meets(choices, _evenly(choices, block.counts)):
            passed.add(block.group)
            continue
        gone += int(filters[block.units].sum()) if block.worth > 0.0 else 0
        counts = block.counts
        if _crosses(choices, counts):
            break
    if (counts == before).all():
        refuse(choices, _evenly(choices, before))
    reached = _crosses(choices, counts)
    if reached:
        counts = _last(choices, before, [values[units] for units in ranked])
    stays = np.zeros(graph.num_units, dtype=bool)
    for units, count in zip(ranked, counts, strict=True):
        stays[units[:count]] = True
    went = np.flatnonzero(keep & ~stays & (values > 0))
    return Pruned(stays, counts, int(filters[torch.as_tensor(went)].sum()), reached)


def _best_first(values: _Floats, keep: Keep, start: int, size: int) -> npt.NDArray[np.int64]:
    """Returns the live units of a group, best first."""
    live = start + np.flatnonzero(keep[start : start + size])
    return live[np.argsort(-values[live], kind="stable")]


@dataclass(frozen=True, eq=False)
class _Block:
    """What may go next: of one group, or of a branch with it."""

    group: int
    counts: Counts  # without it
    worth: float
    units: npt.NDArray[np.int64]


def _least(
    choices: Choices, counts: Counts, values: _Floats, ranked: list[npt.NDArray[np.int64]], passed: set[int]
) -> _Block | None:
    """Returns the block of least worth, leaving out some groups; None where nothing may go."""
    best: _Block | None = None
    for group, allowed in enumerate(choices.allowed):
        at = int(np.searchsorted(allowed, counts[group]))
        if at == 0 or group in passed:
            continue
        lower = counts.copy()
        lower[group] = allowed[at - 1]
        if lower[group] == 0:
            for branch in choices.branches:
                if group in branch:
                    lower[branch] = 0
        units = np.concatenate([ranked[g][lower[g] : counts[g]] for g in np.flatnonzero(lower != counts)])
        worth = float(values[units].mean())
        if best is None or worth < best.worth:
            best = _Block(group, lower, worth, units)
    return best


def _last(choices: Choices, before: Counts, scores: list[_Floats]) -> Counts:
    """Returns the counts nearest to the target that are nowhere above the present ones."""
    counts = _search(choices, before, scores)
    if not _meets(choices, counts):
        counts = _evenly(choices, before)
    if not _meets(choices, counts):
        refuse(choices, counts)
    return counts


def _evenly(choices: Choices, before: Counts) -> Counts:
    """As `_last` for scores of its own: whether the budget can be met from here at all.

    The cut is spread over all groups, over those that save much first, or over those that save little first.
    """
    floor = np.array([a[0] for a in choices.allowed], dtype=np.int64)
    saved = np.ones(len(before))
    for group in np.flatnonzero(floor < before):
        less = before.copy()
        less[group] = floor[group]
        saved[group] = max(choices.cost(before) - choices.cost(less), 1.0)
    best = before
    for weight in (np.ones_like(saved), 1.0 / saved, saved):
        scores = [np.linspace(w, 0.0, count, endpoint=False) for w, count in zip(weight, before, strict=True)]
        found = _search(choices, before, scores)
        if abs(choices.cost(found) - choices.target) < abs(choices.cost(best) - choices.target):
            best = found
        if _meets(choices, best):
            break
    return best


def _search(choices: Choices, before: Counts, scores: list[_Floats]) -> Counts:
    allowed = [a[a <= now] for a, now in zip(choices.allowed, before, strict=True)]
    return search_counts(Search(allowed, scores, choices.cost, choices.target, choices.branches))


def _crosses(choices: Choices, counts: Counts) -> bool:
    """Whether the budget is met, or more than met."""
    return choices.cost(counts) <= choices.target * (1 + TOLERANCE)


def _meets(choices: Choices, counts: Counts) -> bool:
    return abs(choices.cost(counts) - choices.target) <= TOLERANCE * choices.target
