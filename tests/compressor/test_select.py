import numpy as np
import pytest
import torch
from torch import nn

from compressor.costs.coverage import coverage
from compressor.errors import BudgetError
from compressor.graph import ChannelGraph, trace
from compressor.methods.l1 import L1, magnitudes
from compressor.plan import PruningPlan
from compressor.select import Limits, parse_budget, select
from compressor.shrink import shrink

IMAGE = torch.zeros(1, 3, 16, 16)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in [(3, 32), (32, 64), (64, 64), (64, 96)]:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Conv2d(96, 96, 3, groups=96), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 7)
    )


MODEL = network()
GRAPH = trace(MODEL, IMAGE)
SCORES = magnitudes(MODEL, GRAPH)


def reached(plan: PruningPlan, kind: str) -> float:
    report = coverage(GRAPH, plan)
    if kind == "macs":
        return report.kept_macs / report.macs
    if kind == "params":
        return sum(p.numel() for p in shrink(MODEL, GRAPH, plan).parameters()) / report.params
    free = [g for g in report.groups if g.status != "frozen"]
    return sum(g.kept_units for g in free) / sum(g.units for g in free)


@pytest.mark.parametrize("step", [1, 8, 16])
@pytest.mark.parametrize("text", ["macs=0.7x", "macs=0.3x", "params=0.4x", "density=0.5", "density=0.75"])
def test_budget_is_met(text: str, step: int) -> None:
    budget = parse_budget(text)
    plan = select(GRAPH, SCORES, budget=budget, step=step)
    assert reached(plan, budget.kind) == pytest.approx(budget.value, rel=0.02)
    for name, kept in plan.keep.items():
        assert len(kept) % step == 0
        best = np.argsort(-SCORES[name].numpy(), kind="stable")[: len(kept)]
        assert kept == tuple(sorted(best.tolist()))


def test_absolute_budget() -> None:
    macs = coverage(GRAPH).macs
    plan = select(GRAPH, SCORES, budget=parse_budget(f"macs={macs / 2e3}k"))
    assert coverage(GRAPH, plan).kept_macs == pytest.approx(macs / 2, rel=0.02)


def test_macs_and_params_are_those_of_the_shrunk_network() -> None:
    plan = select(GRAPH, SCORES, budget=parse_budget("macs=0.4x"))
    slim = shrink(MODEL, GRAPH, plan)
    again = coverage(trace(slim, IMAGE))
    report = coverage(GRAPH, plan)
    assert (again.macs, again.params) == (report.kept_macs, report.kept_params)
    assert again.params == sum(p.numel() for p in slim.parameters())


@pytest.mark.parametrize("step", [1, 16])
def test_out_of_reach_says_the_closest(step: int) -> None:
    limits = Limits(keep_min={"*": 0.5})
    with pytest.raises(BudgetError, match=r"macs=0.1x cannot be met within 2 %; closest reachable is 0\.2\d*x"):
        select(GRAPH, SCORES, budget=parse_budget("macs=0.1x"), limits=limits, step=step)
    with pytest.raises(BudgetError, match="closest reachable"):
        select(GRAPH, SCORES, budget=parse_budget("macs=900G"))


@pytest.mark.parametrize(
    ("limits", "step", "said", "unsaid"),
    [
        (Limits(), 16, ["--align off"], ["--keep-min", "exclude", "include"]),
        (Limits(), 1, ["ask for the closest"], ["--align", "--keep-min", "exclude", "include"]),
        (Limits(keep_min={"3": 0.5}), 1, ["lower --keep-min"], ["exclude", "include"]),
        (Limits(exclude=("3",)), 1, ["exclude fewer layers"], ["--keep-min", "include"]),
        (Limits(include=("3",)), 1, ["include more layers"], ["--keep-min", "exclude"]),
        (Limits(exclude=("*",)), 16, ["no channel may be cut", "exclude fewer layers"], ["--keep-min", "include"]),
    ],
)
def test_out_of_reach_says_what_helps(limits: Limits, step: int, said: list[str], unsaid: list[str]) -> None:
    with pytest.raises(BudgetError, match="cannot be met") as caught:
        select(GRAPH, SCORES, budget=parse_budget("macs=0.00001x"), limits=limits, step=step)
    assert all(text in str(caught.value) for text in said)
    assert not any(text in str(caught.value) for text in unsaid)


def test_where_all_is_frozen_no_limit_is_blamed() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 196, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.conv(x).flatten(1).sort(1).values)
            return y

    graph = trace(Sorted(), IMAGE)
    assert all(group.frozen for group in graph.groups)
    with pytest.raises(BudgetError, match=r"no channel may be cut; 'compress inspect' says what is frozen") as caught:
        select(graph, {}, budget=parse_budget("macs=0.5x"), limits=Limits(keep_min={"*": 0.5}), step=16)
    assert "--keep-min" not in str(caught.value)
    assert "--align" not in str(caught.value)


def test_limits() -> None:
    limits = Limits(include=("0", "3", "6"), exclude=("6",), keep_min={"3": 60, "0": 0.25})
    plan = select(GRAPH, SCORES, budget=parse_budget("macs=0.85x"), limits=limits)
    assert set(plan.keep) <= {"0", "3"}
    assert len(plan.keep.get("3", range(64))) >= 60
    assert len(plan.keep["0"]) >= 8
    with pytest.raises(ValueError, match=r"pattern 'layer9\.\*' names no layer"):
        select(GRAPH, SCORES, budget=parse_budget("macs=0.5x"), limits=Limits(exclude=("layer9.*",)))


def test_ties_keep_the_lower_index() -> None:
    even = {name: torch.ones_like(score) for name, score in SCORES.items()}
    plan = select(GRAPH, even, budget=parse_budget("density=0.5"))
    assert all(kept == tuple(range(len(kept))) for kept in plan.keep.values())


@pytest.mark.parametrize(
    "text", ["", "macs", "macs=2x", "macs=0x", "flops=0.5x", "density=3M", "macs=0.5", "latency=3", "macs=3ms"]
)
def test_bad_budgets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        parse_budget(text)


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="no scores for group"):
        select(GRAPH, {}, budget=parse_budget("macs=0.5x"))
    with pytest.raises(ValueError, match="finite"):
        select(GRAPH, {n: s / 0 for n, s in SCORES.items()}, budget=parse_budget("macs=0.5x"))


def test_l1_finds_the_small_filters() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight[[5, 9]] *= 1e-3
    method = L1(readers=False)
    method.attach(model, IMAGE)
    score = method.scores(model).values["3"]
    assert set(score.argsort()[:2].tolist()) == {5, 9}
    assert set(method.scores(model).values) == {g.name for g in GRAPH.groups if g.frozen is None}


def test_coverage_counts_what_can_be_reached() -> None:
    report = coverage(GRAPH)
    by_name = {group.name: group for group in report.groups}
    assert by_name["15"].status == "frozen"
    assert by_name["15"].reason == "network output"
    assert by_name["0"].reachable_macs == 16 * 16 * 9 * (3 * 32 + 32 * 64)
    assert report.reachable_macs_fraction == 1.0
    assert isinstance(GRAPH, ChannelGraph)
