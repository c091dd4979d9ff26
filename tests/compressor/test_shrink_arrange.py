import pytest
import torch
from torch import nn

from compressor.errors import PlanError
from compressor.graph import trace
from compressor.plan import PruningPlan
from compressor.shrink import arrange, shrink

IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Joined(nn.Module):
    """Concatenation, a depthwise layer, and a linear layer that reads a plane's pixels: units in many places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(9)
        self.depthwise = nn.Conv2d(9, 9, 3, groups=9)
        self.head = nn.Linear(9 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.cat([self.first(x), self.second(x)], dim=1)).relu()
        return self.head(self.depthwise(x).flatten(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Joined().double()
    model.train()(IMAGES)
    return model.eval()


def test_another_order_computes_the_same_and_moves_the_weights() -> None:
    model = network()
    graph = trace(model, IMAGES)
    moved = arrange(model, graph, {"first": (3, 0, 4, 2, 1), "second": (3, 2, 1, 0)})
    assert torch.allclose(moved(IMAGES), model(IMAGES), rtol=0, atol=1e-12)
    assert torch.equal(moved.first.weight, model.first.weight[[3, 0, 4, 2, 1]])
    assert torch.equal(moved.norm.running_mean, model.norm.running_mean[[3, 0, 4, 2, 1, 8, 7, 6, 5]])


def test_units_that_are_not_listed_go() -> None:
    model = network()
    graph = trace(model, IMAGES)
    moved = arrange(model, graph, {"first": (4, 1), "second": (2, 0, 3)})
    slim = shrink(model, graph, PruningPlan({"first": (1, 4), "second": (0, 2, 3)}, {"first": 5, "second": 4}))
    assert torch.allclose(moved(IMAGES), slim(IMAGES), rtol=0, atol=1e-12)
    assert torch.equal(moved.second.weight, model.second.weight[[2, 0, 3]])
    assert moved.head.in_features == 5 * 4


def test_a_unit_listed_twice_or_a_group_that_is_not_there_is_refused() -> None:
    model = network()
    graph = trace(model, IMAGES)
    with pytest.raises(PlanError, match="kept units of 'first' must be ascending"):
        arrange(model, graph, {"first": (1, 1)})
    with pytest.raises(PlanError, match="no group 'third'"):
        arrange(model, graph, {"third": (0,)})
