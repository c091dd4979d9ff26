import pytest
import torch
from torch import nn

from compressor.errors import PlanError
from compressor.graph import trace
from compressor.pipeline.padding import pad_widths
from compressor.plan import PruningPlan
from compressor.shrink import can_widen, shrink, widen

IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Joined(nn.Module):
    """Concatenation, a depthwise layer, a residual sum, and a linear layer that reads a plane's pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(11)
        self.depthwise = nn.Conv2d(11, 11, 3, groups=11, padding=1)
        self.inner, self.back = nn.Conv2d(11, 7, 1), nn.Conv2d(7, 11, 1, bias=False)
        self.slope = nn.PReLU(11)
        self.head = nn.Linear(11 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.cat([self.first(x), self.second(x)], dim=1)).relu()
        x = x + self.back(torch.sigmoid(self.inner(self.depthwise(x))))
        return self.head(self.slope(x).flatten(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Joined()
    model.train()(IMAGES)
    return model.eval()


def test_a_wider_network_computes_the_same() -> None:
    model = network()
    padded = pad_widths(model, IMAGES)
    assert padded is not None
    assert (padded.channels, padded.groups) == (3 + 2 + 1, 3)
    wide = padded.model
    assert torch.equal(wide(IMAGES), model(IMAGES))
    assert (wide.first.out_channels, wide.second.out_channels, wide.inner.out_channels) == (8, 8, 8)
    assert wide.depthwise.groups == wide.norm.num_features == len(wide.slope.weight) == 16
    assert (wide.head.in_features, wide.head.out_features) == (16 * 16, 5)


def test_what_was_added_is_what_shrinking_takes_away() -> None:
    model = network()
    wide = widen(model, trace(model, IMAGES), {"first": 2, "second": 4, "inner": 3})
    graph = trace(wide, IMAGES)
    old = {"first": 5, "second": 6, "inner": 7}
    plan = PruningPlan(
        {name: tuple(range(size)) for name, size in old.items()}, {name: graph.group(name).size for name in old}
    )
    slim = shrink(wide, graph, plan).state_dict()
    assert all(torch.equal(tensor, slim[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_widened_stays() -> None:
    grouped = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 5, 1)).eval()
    graph = trace(grouped, IMAGES)
    assert not any(can_widen(graph, group) for group in graph.groups)
    assert pad_widths(grouped, IMAGES) is None
    with pytest.raises(PlanError, match="group '3' cannot be widened"):
        widen(grouped, graph, {"3": 3})


def test_a_network_that_fits_is_returned_untouched() -> None:
    assert pad_widths(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)).eval(), IMAGES) is None
