"""A graph narrowed by a cut is the graph that tracing the cut network gives."""

import numpy as np
import pytest
import torch
from torch import nn

from compressor.graph import trace
from compressor.graph.cut import Keep
from compressor.graph.narrow import narrowed
from compressor.plan import PruningPlan
from compressor.shrink import shrink

EXAMPLE = torch.zeros(2, 3, 8, 8)


def network() -> nn.Module:
    """Plain, depthwise and grouped convolutions, both kinds of norm, a flatten."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1, groups=2),
        nn.GroupNorm(3, 12),
        nn.ReLU(),
        nn.Conv2d(12, 4, 3),
        nn.Flatten(),
        nn.Linear(64, 2),
    ).eval()


def test_narrowed_equals_traced() -> None:
    model, example = network(), EXAMPLE
    graph = trace(model, example)
    keep: Keep = np.ones(graph.num_units, dtype=bool)
    plan: dict[str, tuple[int, ...]] = {}
    for group in graph.groups:
        if group.frozen is None:
            plan[group.name] = tuple(range(1, group.size, 2))
            keep[group.start : group.start + group.size : 2] = False
    sizes = {g.name: g.size for g in graph.groups if g.name in plan}
    want = trace(shrink(model, graph, PruningPlan(plan, sizes)), example)
    got = narrowed(graph, keep)
    assert got.groups == want.groups
    assert got.shapes == want.shapes
    for mine, theirs in zip(got.layers, want.layers, strict=True):
        assert (mine.name, mine.macs, mine.groups) == (theirs.name, theirs.macs, theirs.groups)
        assert np.array_equal(mine.inputs, theirs.inputs)
        assert np.array_equal(mine.outputs, theirs.outputs)
    for path, axes in want.axes.items():
        for mine_units, their_units in zip(got.axes[path], axes, strict=True):
            assert np.array_equal(mine_units, their_units)


def test_a_group_without_units_is_refused() -> None:
    model = network()
    graph = trace(model, EXAMPLE)
    with pytest.raises(ValueError, match="without units"):
        narrowed(graph, np.zeros(graph.num_units, dtype=bool))
