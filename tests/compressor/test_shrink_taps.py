"""Kernels that keep evenly spaced rows and columns become smaller or dilated convolutions, exactly."""

import copy

import pytest
import torch
from torch import nn

from compressor.errors import PlanError
from compressor.graph import trace
from compressor.plan import KernelTaps, PruningPlan, plan_from_json, plan_to_json
from compressor.shrink import fits_taps, remap_optimizer, shrink, silence

X = torch.randn(2, 3, 13, 11, generator=torch.Generator().manual_seed(0))


def network(**geometry: object) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.Conv2d(8, 6, **geometry)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()


CASES = [
    ({"kernel_size": 3, "padding": 1}, KernelTaps((3, 3), (0, 2), (0, 2)), (2, 2), (2, 2)),
    ({"kernel_size": 3, "padding": 1}, KernelTaps((3, 3), (1,), (0, 2)), (1, 2), (1, 2)),
    ({"kernel_size": 3, "padding": 2, "stride": 2, "dilation": 2}, KernelTaps((3, 3), (1,), (1,)), (1, 1), (1, 1)),
    ({"kernel_size": 5, "padding": 2}, KernelTaps((5, 5), (0, 2, 4), (1, 3)), (3, 2), (2, 2)),
    ({"kernel_size": (3, 5), "padding": (1, 2), "stride": (1, 2)}, KernelTaps((3, 5), (0, 1, 2), (2,)), (3, 1), (1, 1)),
]


@pytest.mark.parametrize(("geometry", "taps", "size", "dilation"), CASES)
def test_shrunk_equals_silenced(
    geometry: dict[str, object], taps: KernelTaps, size: tuple[int, int], dilation: tuple[int, int]
) -> None:
    model = network(**geometry)
    graph = trace(model, X)
    plan = PruningPlan({"0": (0, 2, 3, 5)}, {"0": 8}, {"2": taps})
    plan = plan_from_json(plan_to_json(plan))
    slim = shrink(model, graph, plan)
    middle = slim.get_submodule("2")
    assert (middle.kernel_size, middle.dilation) == (size, dilation)
    assert middle.weight.shape == (6, 4, *size)
    with torch.no_grad():
        assert torch.allclose(slim(X), silence(model, graph, plan)(X), rtol=0, atol=1e-5)
        assert not torch.allclose(slim(X), model(X), rtol=0, atol=1e-3)
    assert trace(slim, X).group("0").size == 4, "a shrunk network is traced like any other"


@pytest.mark.parametrize(
    ("geometry", "taps"),
    [
        ({"kernel_size": 3, "padding": 1}, KernelTaps((3, 3), (0,), (1,))),  # more above than below
        ({"kernel_size": 3, "padding": 0}, KernelTaps((3, 3), (1,), (1,))),  # would have to cut the input's border off
        ({"kernel_size": 3, "padding": "same"}, KernelTaps((3, 3), (0, 2), (0, 2))),
        ({"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, KernelTaps((3, 3), (0, 2), (0, 2))),
        ({"kernel_size": 5, "padding": 2}, KernelTaps((3, 3), (0, 2), (0, 2))),
    ],
)
def test_what_is_no_convolution_is_refused(geometry: dict[str, object], taps: KernelTaps) -> None:
    model = network(**geometry)
    assert not fits_taps(model.get_submodule("2"), taps)
    with pytest.raises(PlanError, match="no convolution that can do so"):
        shrink(model, trace(model, X), PruningPlan(taps={"2": taps}))


@pytest.mark.parametrize("rows", [(), (0, 3), (2, 0), (0, 1, 4)])
def test_a_damaged_plan_is_refused(rows: tuple[int, ...]) -> None:
    size = (3, 3) if len(rows) < 3 else (5, 5)
    model = network(kernel_size=size[0], padding=1)
    with pytest.raises(PlanError, match="evenly spaced"):
        shrink(model, trace(model, X), PruningPlan(taps={"2": KernelTaps(size, rows, (1,))}))


def test_momentum_goes_with_the_taps() -> None:
    model = network(kernel_size=3, padding=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(X).square().sum().backward()
    optimizer.step()
    plan = PruningPlan({"0": (1, 4)}, {"0": 8}, {"2": KernelTaps((3, 3), (0, 2), (1,))})
    graph = trace(copy.deepcopy(model), X)
    slim = shrink(model, graph, plan)
    moved = remap_optimizer(optimizer, model, slim, graph=graph, plan=plan)
    before = optimizer.state[model.get_parameter("2.weight")]["momentum_buffer"]
    after = moved.state[slim.get_parameter("2.weight")]["momentum_buffer"]
    assert torch.equal(after, before[:, [1, 4]][:, :, [0, 2]][:, :, :, [1]])
