"""How many channels each layer of an RBP (reconstruction) run keeps, so that all together meet the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from compressor.costs.widths import Counts
from compressor.graph import ChannelGraph
from compressor.select import TOLERANCE, Choices
from compressor.select.choose import refuse
from compressor.select.search import Search, search_counts

__all__ = ["even_scores", "open_choices", "share_out", "shares_with", "unit_scores"]


def open_choices(graph: ChannelGraph, choices: Choices, groups: Sequence[str]) -> Choices:
    """Returns choices in which only these groups may lose units; the others stay whole."""
    allowed = [a if g.name in groups else a[-1:] for a, g in zip(choices.allowed, graph.groups, strict=True)]
    return replace(choices, allowed=allowed, branches=[])


def even_scores(graph: ChannelGraph) -> Tensor:
    """Returns (units,) scores by which every group gives up the same part."""
    return torch.cat([torch.linspace(1.0, 0.0, g.size + 1)[:-1] for g in graph.groups])


def unit_scores(graph: ChannelGraph, values: Mapping[str, Tensor]) -> Tensor:
    """Returns (units,): the values of the groups that have some, 1 elsewhere."""
    scores = torch.ones(graph.num_units)
    for group in graph.groups:
        if group.name in values:
            scores[group.start : group.start + group.size] = values[group.name]
    return scores


def share_out(graph: ChannelGraph, choices: Choices, scores: Tensor) -> Counts:
    """Returns the counts that meet the budget and give up the least score.

    Args:
        graph: of the network before the run.
        choices: what is allowed.
        scores: (units,), larger is kept.

    Raises:
        BudgetError: no counts meet the budget.
    """
    counts, search = _search(graph, choices, scores, {})
    if search.off(counts) > TOLERANCE:
        refuse(choices, counts)
    return counts


def shares_with(
    graph: ChannelGraph, choices: Choices, scores: Tensor, *, shares: Counts, decided: Sequence[str], natural: int
) -> Counts:
    """Returns the counts after a layer has said what it needs: the nearest to it that later layers can make up for.

    Args:
        graph: of the network before the run.
        choices: what is allowed.
        scores: (units,), larger is kept.
        shares: counts that meet the budget.
        decided: groups that were pruned, in order; their counts stay, but for the last one's, which is asked for.
        natural: units that it needs.
    """
    places = {group.name: place for place, group in enumerate(graph.groups)}
    fixed = {name: int(shares[places[name]]) for name in decided}
    allowed = choices.allowed[places[decided[-1]]]
    for count in sorted(allowed.tolist(), key=lambda n: (abs(n - natural), -n)):
        if count == fixed[decided[-1]]:
            break
        counts, search = _search(graph, choices, scores, {**fixed, decided[-1]: count})
        if search.off(counts) <= TOLERANCE:
            return counts
    return shares


def _search(graph: ChannelGraph, choices: Choices, scores: Tensor, fixed: Mapping[str, int]) -> tuple[Counts, Search]:
    allowed = [
        np.array([fixed[g.name]], dtype=np.int64) if g.name in fixed else a
        for a, g in zip(choices.allowed, graph.groups, strict=True)
    ]
    ranked = [-np.sort(-scores[g.start : g.start + g.size].double().numpy()) for g in graph.groups]
    search = Search(allowed, ranked, choices.cost, choices.target)
    return search_counts(search), search
