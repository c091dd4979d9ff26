"""Where RBP (reconstruction) puts noise: mixing readers in forward order, trunks only when asked."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import trace
from compressor.methods.rbp import RBP
from compressor.methods.rbp_places import ChainStep, find_steps, unit_macs


def steps_of(model: nn.Module, example: Tensor, **options: bool) -> tuple[dict[str, ChainStep], dict[str, str]]:
    steps, left = find_steps(model, trace(model, example), **options)
    return {step.group: step for step in steps}, left


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Excited(nn.Module):
    """Expansion, depthwise, squeeze-excite, projection: one inner group that several layers write and read."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.project = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depth(F.relu(self.expand(x))))
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        y: Tensor = self.project(x * scale)
        return y


def test_residual_sums_are_left_alone_unless_asked_for() -> None:
    steps, left = steps_of(Residual(), torch.zeros(2, 3, 8, 8))
    assert list(steps) == ["inner"]
    assert "trunks=true" in left["stem"]
    steps, left = steps_of(Residual(), torch.zeros(2, 3, 8, 8), trunks=True)
    assert list(steps) == ["stem", "inner"]  # in the order in which they are first read
    assert [reader.name for reader in steps["stem"].readers] == ["inner", "head"]
    assert not left


def test_depthwise_and_squeeze_excite_make_no_trunk_and_depthwise_carries_no_noise() -> None:
    steps, _ = steps_of(Excited(), torch.zeros(2, 3, 8, 8))
    assert [reader.name for reader in steps["expand"].readers] == ["squeeze", "project"]
    assert [reader.name for reader in steps["squeeze"].readers] == ["excite"]


def test_after_a_flatten_there_is_one_noise_per_map() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    steps, _ = steps_of(model, torch.zeros(2, 1, 4, 4))
    (reader,) = steps["0"].readers
    assert reader.index.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_weights_are_shares_of_the_cost() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1))
    graph = trace(model, torch.zeros(2, 1, 4, 4))
    steps, _ = find_steps(model, graph, macs_weighted=True)
    # Per unit of the first group: 9 taps made, 2 kernels read, 16 pixels; of the second 4 and 3.
    assert [step.weights[0] for step in steps] == pytest.approx([11 / (58 / 6), 7 / (58 / 6)])
    assert np.concatenate([step.weights for step in steps]).mean() == pytest.approx(1.0)
    assert unit_macs(graph)[: graph.groups[0].size].tolist() == [11 * 16] * 4
    plain, _ = find_steps(model, graph)
    assert all((step.weights == 1).all() for step in plain)


def test_a_group_that_cannot_carry_noise_is_left_whole_with_the_reason() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(F.relu(self.twice(F.relu(self.twice(F.relu(self.first(x)))))))
            return y

    steps, left = steps_of(Tied(), torch.zeros(2, 3, 4, 4))
    assert not steps
    assert left["first"] == "twice cannot carry noise (a bare function, called twice or tied)"
    with pytest.raises(MethodError, match=r"RBP \(reconstruction\): no layer of Tied can carry noise"):
        RBP().attach(Tied(), torch.zeros(2, 3, 4, 4))
