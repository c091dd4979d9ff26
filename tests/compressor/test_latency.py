import dataclasses
import json

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from compressor.costs.latency import latency_of, planned_latency_ms
from compressor.costs.measured_rates import measure_rates
from compressor.costs.operations import KINDS, Operations, operations
from compressor.costs.rates import BUILT_IN, Rates, rates_from_dict
from compressor.costs.widths import Counts, count_units, planned_macs, width_costs
from compressor.errors import BudgetError, CompressorError
from compressor.graph import ChannelGraph, trace
from compressor.methods.l1 import magnitudes
from compressor.plan import PruningPlan
from compressor.select import TOLERANCE, Clock, parse_budget, select
from compressor.shrink import shrink

IMAGE = torch.zeros(1, 3, 32, 32)
RATES = BUILT_IN["onnxruntime-avx512"]


class Mobile(nn.Module):
    """Early layers cost time without multiplying: what a mobile network looks like to a processor."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in [(3, 32, 1), (32, 64, 2), (64, 96, 2), (96, 128, 1)]:
            inner = 4 * outputs
            layers += [nn.Conv2d(inputs, inner, 1), nn.BatchNorm2d(inner), nn.SiLU()]
            layers += [nn.Conv2d(inner, inner, 3, stride, 1, groups=inner), nn.BatchNorm2d(inner), nn.SiLU()]
            layers += [nn.Conv2d(inner, outputs, 1), nn.BatchNorm2d(outputs)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(128, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return result


def mobile() -> Mobile:
    torch.manual_seed(0)
    return Mobile().eval()


MODEL = mobile()
GRAPH = trace(MODEL, IMAGE)
SCORES = magnitudes(MODEL, GRAPH)
TABLE = operations(MODEL, GRAPH, IMAGE)
CLOCK = Clock(latency_of(TABLE, RATES), RATES.source)


def full(graph: ChannelGraph) -> Counts:
    return np.array([group.size for group in graph.groups], dtype=np.int64)


def kept(graph: ChannelGraph, plan: PruningPlan) -> Counts:
    return np.array([len(plan.keep.get(g.name, range(g.size))) for g in graph.groups], dtype=np.int64)


def lost(plan: PruningPlan) -> float:
    return sum(float(SCORES[name].sum() - SCORES[name][list(units)].sum()) for name, units in plan.keep.items())


def kinds(table: Operations) -> list[str]:
    return [KINDS[kind] for kind in table.kinds]


def test_every_operator_that_takes_time_is_there() -> None:
    found = kinds(TABLE)
    assert found.count("conv") == 8
    assert found.count("depthwise") == 4
    assert found.count("activation") == 8
    assert found.count("weights") == 1
    assert found.count("move") == 3  # the mean, and what the two strides step over


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_work_of_layers_is_all_multiply_accumulates(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    image = torch.zeros(1, 3, 64, 64)
    graph = trace(model, image)
    table = operations(model, graph, image)
    counts = full(graph)
    widths = table.fixed + table.share @ counts
    layers = np.isin(table.kinds, [KINDS.index(kind) for kind in ("conv", "grouped", "depthwise", "weights")])
    work = (table.work * widths[table.rows].prod(axis=1))[layers].sum()
    assert work == pytest.approx(planned_macs(width_costs(graph), counts))


def test_the_prediction_is_that_of_the_shrunk_network() -> None:
    plan = select(GRAPH, SCORES, budget=parse_budget("macs=0.5x"), step=16)
    slim = shrink(MODEL, GRAPH, plan)
    graph = trace(slim, IMAGE)
    again = planned_latency_ms(operations(slim, graph, IMAGE), RATES, full(graph))
    assert CLOCK.latency_ms(kept(GRAPH, plan)) == pytest.approx(again, rel=1e-9)


def test_widths_cost_whole_blocks_and_ragged_ones_more() -> None:
    group = next(i for i, g in enumerate(GRAPH.groups) if g.size == 128 and g.frozen is None)

    def ms(width: int) -> float:
        counts = full(GRAPH)
        counts[group] = width
        return CLOCK.latency_ms(counts)

    assert ms(96) < ms(100) <= ms(108) <= ms(112) < ms(111)
    assert ms(112) < ms(128)
    assert CLOCK.latency_ms(full(GRAPH) * 0) == 0


@pytest.mark.parametrize("text", ["density=0.5", "macs=0.4x", "params=0.4x"])
def test_a_faster_plan_is_as_good(text: str) -> None:
    budget, tables = parse_budget(text), width_costs(GRAPH)
    plain = select(GRAPH, SCORES, budget=budget, step=16)
    timed = select(GRAPH, SCORES, budget=budget, step=16, clock=CLOCK)
    assert timed == select(GRAPH, SCORES, budget=budget, step=16, clock=CLOCK)
    before, after = kept(GRAPH, plain), kept(GRAPH, timed)
    assert CLOCK.latency_ms(after) < 0.98 * CLOCK.latency_ms(before)
    assert planned_macs(tables, before) * (1 - TOLERANCE) <= planned_macs(tables, after) <= planned_macs(tables, before)
    assert lost(timed) <= lost(plain) * (1 + CLOCK.slack) + 1e-9
    assert all(len(units) % 16 == 0 for units in timed.keep.values())
    if budget.kind == "density":
        free = np.array([g.frozen is None for g in GRAPH.groups])
        share = after[free].sum() / full(GRAPH)[free].sum()
        assert (
            budget.value * (1 - TOLERANCE) <= share <= max(budget.value, before[free].sum() / full(GRAPH)[free].sum())
        )


def test_no_slack_gives_up_no_score() -> None:
    budget = parse_budget("macs=0.4x")
    plain = select(GRAPH, SCORES, budget=budget, step=16)
    timed = select(GRAPH, SCORES, budget=budget, step=16, clock=dataclasses.replace(CLOCK, slack=0.0))
    assert lost(timed) <= lost(plain) + 1e-9


@pytest.mark.parametrize("step", [1, 16])
def test_a_budget_of_latency_is_met(step: int) -> None:
    dense = CLOCK.latency_ms(full(GRAPH))
    for text, wanted in (("latency=0.5x", dense / 2), (f"latency_ms={dense / 2:.6f}", dense / 2)):
        plan = select(GRAPH, SCORES, budget=parse_budget(text), step=step, clock=CLOCK)
        assert CLOCK.latency_ms(kept(GRAPH, plan)) == pytest.approx(wanted, rel=TOLERANCE)
    with pytest.raises(BudgetError, match="closest reachable"):
        select(GRAPH, SCORES, budget=parse_budget("latency=0.001x"), step=step, clock=CLOCK)
    with pytest.raises(ValueError, match="needs the times of a machine"):
        select(GRAPH, SCORES, budget=parse_budget("latency=0.5x"), step=step)


def test_groups_of_convolutions_stay_whole_blocks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.Conv2d(64, 128, 1), nn.Conv2d(128, 128, 3, groups=4), nn.Conv2d(128, 64, 1)
    )
    graph = trace(model, IMAGE)
    scores = magnitudes(model, graph)

    def grouped(plan: PruningPlan) -> nn.Module:
        return shrink(model, graph, plan).get_submodule("2")

    roomy = grouped(select(graph, scores, budget=parse_budget("macs=0.6x"), step=16))
    assert roomy.weight.shape[0] // 4 % 16 == 0
    assert roomy.weight.shape[1] % 16 == 0
    tight = grouped(select(graph, scores, budget=parse_budget("macs=0.1x"), step=16))  # 16 wide groups would not do
    assert tight.weight.shape[1] < 16


def test_rates_of_this_machine() -> None:
    rates = measure_rates(block=8, rounds=1)
    assert all(getattr(rates, field.name) > 0 for field in dataclasses.fields(Rates) if field.name != "source")
    plain = dataclasses.asdict(rates)
    assert rates_from_dict(json.loads(json.dumps(plain))) == rates
    for damaged in ("nonsense", {}, {**plain, "move": -1.0}, {**plain, "weight": float("nan")}, {**plain, "block": 0}):
        with pytest.raises(CompressorError, match="measure it anew"):
            rates_from_dict(damaged)


def test_removed_branches_cost_nothing() -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    graph = trace(model, torch.zeros(1, 3, 64, 64))
    table = operations(model, graph, torch.zeros(1, 3, 64, 64))
    branch = set(graph.branches[0].groups)
    keep = np.array([g.name not in branch for g in graph.groups for _ in range(g.size)])
    before = planned_latency_ms(table, RATES, full(graph))
    after = planned_latency_ms(table, RATES, count_units(graph, keep))
    assert before - after > 2 * RATES.operator_us / 1e3
