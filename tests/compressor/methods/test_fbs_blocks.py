import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import trace
from compressor.graph.pairs import conv_bn_pairs
from compressor.methods.fbs import FBS
from compressor.methods.fbs_blocks import activities, block_order, order_for_blocks
from compressor.shrink import arrange

IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A stem, a residual block on it, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.conv2, self.bn2 = nn.Conv2d(10, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        y = self.bn1(self.conv1(x)).relu()
        return self.head((self.bn2(self.conv2(y)) + x).relu().mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    model.train()(IMAGES)
    return model.eval()


def planted(images: int, groups: list[list[int]]) -> np.ndarray:
    """Channels of one list are active together, in images of their own."""
    generator = np.random.default_rng(0)
    activity = 0.2 * generator.random((images, sum(map(len, groups))))
    for number, channels in enumerate(groups):
        activity[np.ix_(np.arange(images) % len(groups) == number, channels)] += generator.uniform(1, 9, len(channels))
    return activity


@pytest.mark.parametrize("block", [1, 3, 4])
def test_every_channel_has_one_place(block: int) -> None:
    assert sorted(block_order(np.random.default_rng(0).standard_normal((20, 10)), block)) == list(range(10))


def test_channels_that_fire_together_share_a_block() -> None:
    groups = [[0, 4, 9], [1, 2, 11], [3, 6, 7], [5, 8, 10]]
    order = block_order(planted(200, groups), 3)
    assert sorted(sorted(order[first : first + 3]) for first in range(0, 12, 3)) == groups


def test_strong_and_weak_channels_do_not_mix() -> None:
    """Noise alone, so that nothing correlates; every second channel is always strong."""
    activity = np.random.default_rng(0).random((200, 12)) + np.where(np.arange(12) % 2, 3.0, 0.0)
    order = block_order(activity, 6)
    assert set(order[:6]) == {1, 3, 5, 7, 9, 11}


def test_a_channel_that_is_never_active_is_like_no_other() -> None:
    activity = planted(200, [[0, 2], [1, 4], [3]])
    activity[:, 3] = 0.0
    order = block_order(activity, 2)
    assert sorted(map(set, (order[:2], order[2:4])), key=min) == [{0, 2}, {1, 4}]
    assert order[4] == 3


def test_the_network_computes_the_same_with_its_channels_in_blocks() -> None:
    model = network()
    graph = trace(model, IMAGES)
    activity = activities(model, conv_bn_pairs(model, IMAGES)[0], [IMAGES[:20], IMAGES[20:]])
    assert {name: rows.shape for name, rows in activity.items()} == {
        "stem": (32, 8),
        "conv1": (32, 10),
        "conv2": (32, 8),
    }
    order = order_for_blocks(graph, activity, 4)
    assert set(order) == {"stem", "conv1"}  # conv2 writes the stem's channels
    moved = arrange(model, graph, order).eval()
    assert torch.allclose(moved(IMAGES), model(IMAGES), rtol=0, atol=1e-5)
    assert sorted(order["conv1"]) == list(range(10))


def test_a_group_no_wider_than_a_block_stays() -> None:
    model = network()
    activity = activities(model, conv_bn_pairs(model, IMAGES)[0], [IMAGES])
    assert set(order_for_blocks(trace(model, IMAGES), activity, 8)) == {"conv1"}


def test_what_cannot_be_is_said() -> None:
    model = network()
    with pytest.raises(ValueError, match="no image"):
        activities(model, conv_bn_pairs(model, IMAGES)[0], [])
    with pytest.raises(MethodError, match="block_by='chance'; choose from: activity, place"):
        FBS(block_by="chance").attach(model, IMAGES)  # type: ignore[arg-type]
