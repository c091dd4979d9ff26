"""Invariants 7 and 8 of the specification: what a Tick may take, and how much it takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compressor.costs.widths import count_units, planned_macs, width_costs
from compressor.errors import BudgetError
from compressor.graph import ChannelGraph, trace
from compressor.select import Choices, Limits, Pruned, check_reachable, find_choices, parse_budget, prune_least


class Block(nn.Module):
    """relu(x + second(first(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(24, width, 3, padding=1), nn.Conv2d(width, 24, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.relu(x + self.second(torch.relu(self.first(x))))
        return out


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 24, 3, padding=1), Block(32), Block(48)
        self.classifier = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.classifier(self.two(self.one(self.stem(x))).mean((2, 3)))
        return out


MODEL = Network()
GRAPH: ChannelGraph = trace(MODEL, torch.zeros(2, 3, 8, 8))
TRUNK, ONE, TWO = (GRAPH.group(name) for name in ("stem", "one.first", "two.first"))
# The trunk is made by three layers, each inner group by one.
FILTERS = torch.ones(GRAPH.num_units, dtype=torch.int64)
FILTERS[TRUNK.start : TRUNK.start + TRUNK.size] = 3


def choices(budget: str = "macs=0.4x", *, step: int = 1, limits: Limits | None = None) -> Choices:
    return find_choices(GRAPH, budget=parse_budget(budget), limits=limits, step=step, min_keep=0.1)


def random_scores(seed: int) -> torch.Tensor:
    return torch.rand(GRAPH.num_units, generator=torch.Generator().manual_seed(seed)) + 0.01


def tick(scores: torch.Tensor, num_filters: int, *, keep: np.ndarray | None = None, **how: object) -> Pruned:
    keep = np.ones(GRAPH.num_units, dtype=bool) if keep is None else keep
    return prune_least(GRAPH, choices(**how), keep, scores=scores, filters=FILTERS, num_filters=num_filters)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_filters", [1, 5, 20])
def test_08_the_number_asked_for_goes_and_no_more(seed: int, num_filters: int) -> None:
    scores = random_scores(seed)
    scores[TRUNK.start : TRUNK.start + TRUNK.size] += 10  # units of one filter each are left
    pruned = tick(scores, num_filters)
    gone = np.flatnonzero(~pruned.keep)
    assert pruned.num_filters == len(gone) == num_filters
    for group in (TRUNK, ONE, TWO):
        kept = group.start + np.flatnonzero(pruned.keep[group.start : group.start + group.size])
        assert scores[kept].min() >= scores[gone].max(), "the least of the whole network go"


@pytest.mark.parametrize("seed", range(4))
def test_08_a_unit_counts_once_for_each_of_its_layers(seed: int) -> None:
    scores = random_scores(seed)
    pruned = tick(scores, 7)
    gone = np.flatnonzero(~pruned.keep)
    assert pruned.num_filters == int(FILTERS[gone].sum())
    assert 7 <= pruned.num_filters <= 7 + 2
    assert pruned.num_filters - int(FILTERS[gone[scores[gone].argmax()]]) < 7, "without the last it is too few"


def test_08_what_is_protected_stays_and_dead_units_are_free() -> None:
    scores = random_scores(0)
    scores[ONE.start : ONE.start + ONE.size] = 0.0
    pruned = tick(scores, 2, budget="macs=0.2x")
    assert not pruned.reached
    kept = np.flatnonzero(pruned.keep[ONE.start : ONE.start + ONE.size])
    assert kept.tolist() == [0, 1, 2], "max(1, int(0.1 * 32)); equal scores keep the lower index"
    assert 2 <= pruned.num_filters <= 4
    assert int((~pruned.keep).sum()) >= 29 + 1


def test_08_the_order_of_the_layers_does_not_matter() -> None:
    scores = random_scores(3)
    straight = tick(scores, 12)
    turned = replace(GRAPH, groups=tuple(reversed(GRAPH.groups)))
    again = prune_least(
        turned,
        replace(
            choices(),
            allowed=choices().allowed[::-1],
            cost=lambda counts: choices().cost(counts[::-1]),
        ),
        np.ones(GRAPH.num_units, dtype=bool),
        scores=scores,
        filters=FILTERS,
        num_filters=12,
    )
    assert (straight.keep == again.keep).all()


@pytest.mark.parametrize(("step", "branches"), [(1, False), (1, True), (8, False), (16, True)])
def test_07_masks_only_shrink_and_the_budget_is_met_exactly(step: int, branches: bool) -> None:
    """Tick by Tick with new scores: floors, widths and, at the end, the budget within 2 %, from below."""
    keep, ticks, limits = np.ones(GRAPH.num_units, dtype=bool), 0, Limits(remove_branches=branches)
    costs = width_costs(GRAPH)
    dense = planned_macs(costs, count_units(GRAPH, keep))
    while True:
        pruned = tick(random_scores(ticks), 10, keep=keep, step=step, limits=limits)
        assert (pruned.keep <= keep).all()
        assert (pruned.keep != keep).any()
        keep, ticks = pruned.keep, ticks + 1
        for group in (TRUNK, ONE, TWO):
            count = int(keep[group.start : group.start + group.size].sum())
            whole_branch = branches and group is not TRUNK and count == 0
            assert count >= max(1, int(0.1 * group.size)) or whole_branch
            assert step == 1 or count % step == 0 or count == group.size
        if pruned.reached:
            break
        assert planned_macs(costs, count_units(GRAPH, keep)) > 0.4 * dense
    assert ticks > 2
    assert planned_macs(costs, count_units(GRAPH, keep)) / dense == pytest.approx(0.4, rel=0.02)


def test_layers_can_be_left_alone() -> None:
    limits = Limits(exclude=("one.first",), keep_min={"two.first": 40})
    pruned = tick(random_scores(1), 60, limits=limits, budget="macs=0.4x")
    assert pruned.keep[ONE.start : ONE.start + ONE.size].all()
    assert pruned.keep[TWO.start : TWO.start + TWO.size].sum() >= 40


def test_what_cannot_be_reached_is_said_before_any_tick() -> None:
    check_reachable(GRAPH, choices("macs=0.3x"))
    with pytest.raises(BudgetError, match=r"macs=0\.001x cannot be met within 2 %; closest reachable"):
        check_reachable(GRAPH, choices("macs=0.001x"))
    whole = np.ones(GRAPH.num_units, dtype=bool)
    frozen = replace(choices(), allowed=[a[-1:] for a in choices().allowed])
    with pytest.raises(BudgetError, match="closest reachable"):
        prune_least(GRAPH, frozen, whole, scores=random_scores(0), filters=FILTERS, num_filters=1)


def test_scores_that_are_no_scores_are_refused() -> None:
    for bad in (random_scores(0)[:-1], -random_scores(0), random_scores(0) * float("nan")):
        with pytest.raises(ValueError, match="finite numbers of at least 0"):
            tick(bad, 3)
