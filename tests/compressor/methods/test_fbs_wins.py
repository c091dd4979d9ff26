import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.methods.fbs import FBS, layers, set_density
from compressor.methods.fbs_wins import channel_graph, count_wins, order_by_wins
from compressor.shrink import arrange

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """A convolution, a residual block and a classifier: groups with one maker, and one with two."""

    def __init__(self, *, squash: bool = False) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv1, self.bn1 = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.after = nn.BatchNorm2d(12) if squash else nn.Identity()
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        y = self.bn1(self.conv1(x)).relu()
        return self.head(self.after(self.bn2(self.conv2(y)) + x).relu().mean((2, 3)))


def trained(*, squash: bool = False, **settings: object) -> nn.Module:
    """FBS at density 0.5, with channels that never and channels that always win."""
    torch.manual_seed(0)
    model = FBS(density=0.5, **settings).attach(Block(squash=squash), IMAGES[:2])  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in layers(model).values():
            layer.saliency_weight.normal_(0.0, 1.0)
            layer.saliency_bias[1] = 100.0
            layer.saliency_bias[[0, 4]] = -100.0
    model.train()(IMAGES)
    return model.eval()


def laid_out(model: nn.Module, *, keep_never: bool = False) -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    graph = channel_graph(model, IMAGES[:2])
    order = order_by_wins(model, graph, count_wins(model, [IMAGES[:10], IMAGES[10:]]), keep_never=keep_never)
    return arrange(model, graph, order).eval(), order


@torch.no_grad()
def assert_same(first: nn.Module, second: nn.Module) -> None:
    """Equal up to float32 sums in another order."""
    expected = second(IMAGES)
    assert torch.allclose(first(IMAGES), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_wins_are_counted_over_all_batches() -> None:
    model = trained()
    wins = count_wins(model, [IMAGES[:10], IMAGES[10:]])
    for name, layer in layers(model).items():
        assert wins[name].images == len(IMAGES)
        assert wins[name].counts.sum() == layer.winners * len(IMAGES)
        assert wins[name].counts[1] == len(IMAGES)
        assert not wins[name].counts[[0, 4]].any()
        assert wins[name].never >= 2
        assert wins[name].always >= 1
    with pytest.raises(ValueError, match="no image"):
        count_wins(model, [])


def test_the_network_computes_the_same_without_channels_that_never_win() -> None:
    model = trained()
    lean, order = laid_out(model)
    assert set(order) == {"stem", "conv1"}
    for name in order:
        assert order[name][0] == 1
        assert not {0, 4} & set(order[name])
    assert_same(lean, model)
    for name, layer in layers(lean).items():
        before = layers(model)[name]
        assert layer.winners == before.winners
        assert layer.conv.out_channels < before.conv.out_channels
        assert layer.saliency_weight.shape == (layer.conv.in_channels, layer.conv.out_channels)
        assert layer.bn.num_features == len(layer.beta) == len(layer.saliency_bias) == layer.conv.out_channels
    wins = count_wins(lean, [IMAGES])
    assert (np.diff(wins["conv1"].counts) <= 0).all()


def test_never_winners_may_stay() -> None:
    model = trained()
    same, order = laid_out(model, keep_never=True)
    assert {name: len(units) for name, units in order.items()} == {"stem": 12, "conv1": 16}
    assert_same(same, model)


def test_a_sum_keeps_what_wins_on_either_side() -> None:
    model = trained()
    with torch.no_grad():
        layers(model)["conv2"].saliency_bias[4] = 100.0
    lean, order = laid_out(model)
    assert 4 in order["stem"]
    assert_same(lean, model)


@pytest.mark.parametrize("settings", [{"normalize": True}, {"form": "released"}])
def test_layers_that_depend_on_losers_stay_as_they_are(settings: dict[str, object]) -> None:
    assert laid_out(trained(**settings))[1] == {}


def test_blocks_go_and_move_whole() -> None:
    model = trained(winner_block=4)
    with torch.no_grad():
        for layer in layers(model).values():
            layer.saliency_bias.zero_()
            layer.saliency_bias[4:8] = -100.0
            layer.saliency_bias[8:12] = 100.0
    lean, order = laid_out(model)
    assert order["conv1"] == (0, 1, 2, 3, 8, 9, 10, 11)
    assert order["stem"] == (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7)  # in conv2 the second block wins once
    assert_same(lean, model)


def test_channels_that_a_norm_turns_into_constants_stay() -> None:
    assert set(laid_out(trained(squash=True))[1]) == {"conv1"}


def test_density_counts_against_the_width_that_was_trained() -> None:
    lean, _ = laid_out(trained())
    set_density(lean, 1.0)
    layer = layers(lean)["conv1"]
    assert layer.winners == layer.conv.out_channels < layer.full_width == 16
