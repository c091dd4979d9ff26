import pytest
import torch
from torch import Tensor, nn

import models
from compressor.costs import ModelCost, count_macs
from compressor.errors import GraphError
from compressor.methods.fbs import FBS, at_density, layers

MILLION = 1e6
CHANNELS = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 128), (128, 192), (192, 192), (192, 192)]


def cost(spec: str, density: float | None = None, *, images: int = 2, **settings: str) -> ModelCost:
    torch.manual_seed(0)
    model, x = models.build(spec), torch.randn(images, *models.input_size(spec))
    return count_macs(model if density is None else FBS(density=density, **settings).attach(model, x), x)


def test_dense_networks() -> None:
    counted = cost("cifarnet")
    assert counted.macs == counted.dense_macs == counted.paper_macs == pytest.approx(174.3 * MILLION, rel=1e-4)
    assert counted.parameters == 1_296_074
    assert cost("torchvision:resnet18", images=1).macs == 1_814_073_344  # torchvision states 1.81 G
    assert cost("torchvision:mobilenet_v2").macs == pytest.approx(0.3 * 1e9, rel=0.01)  # torchvision states 0.3 G


def test_09_the_chain_of_the_paper() -> None:
    torch.manual_seed(0)
    model, x = models.build("cifarnet"), torch.randn(1, 3, 32, 32)
    dense = count_macs(model, x).macs
    slim = FBS().attach(model, x)
    savings = {0.9: 1.22, 0.8: 1.53, 0.7: 2.01, 0.6: 2.71, 0.5: 3.94, 0.4: 5.97, 0.3: 10.3}
    for density, saving in savings.items():
        with at_density(slim, density):
            counted = count_macs(slim, x)
        assert dense / counted.macs == pytest.approx(saving, rel=0.005)
        assert counted.paper_macs == pytest.approx(counted.macs)
        if density == 0.5:
            assert counted.macs == pytest.approx(44.24 * MILLION, rel=0.005)
            # Predictors; their biases and the shifts take the place of batch norm's factors and shifts.
            assert counted.parameters == 1_296_074 + sum(c * k for c, k in CHANNELS)
    with at_density(slim, 1.0):
        assert dense < count_macs(slim, x).macs < 1.003 * dense


def test_residual_sums_cost_their_union() -> None:
    dense = 1_814_073_344
    # `paper` start: saliencies that look at the input and differ between the branches of a sum.
    slim = cost("torchvision:resnet18", 0.7, images=2, init="paper")
    assert dense / slim.paper_macs == pytest.approx(1.98, rel=0.01)  # the paper's figure
    assert 1.7 < dense / slim.macs < 1.9  # honest: unions are denser
    assert slim.effective_macs <= slim.macs


def test_effective_winners_leave_out_zero_saliencies() -> None:
    torch.manual_seed(0)
    model, x = models.build("cifarnet"), torch.randn(2, 3, 32, 32)
    slim = FBS(density=0.5).attach(model, x)
    first = next(iter(layers(slim).values()))
    with torch.no_grad():
        first.saliency_weight.zero_()
        first.saliency_bias[8:] = 0.0  # 8 of 32 winners output something
    counted = count_macs(slim, x)
    assert counted.layers[1].effective_macs == pytest.approx(counted.layers[1].macs / 4, rel=0.05)
    assert counted.layers[0].winners == 32


class Glue(nn.Module):
    """Concatenation, product, padding and flattening between an FBS layer and two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.reader = nn.Conv2d(7, 5, 1, bias=False)
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False)
        self.classifier = nn.Linear(8 * 4 * 4 + 4 * 8 * 8, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).relu()
        self.reader(torch.cat([y * 2.0, x], dim=1))
        z = torch.flatten(nn.functional.max_pool2d(self.grouped(y), 2), 1)
        return (
            self.classifier(torch.cat([z, (y * y.sigmoid()).flatten(1)], dim=1))
            + self.reader(torch.cat([y, x], 1)).mean((1, 2, 3))[:, None]
        )


def test_live_channels_pass_through_glue() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    counted = count_macs(FBS(density=0.5).attach(Glue(), x), x)
    shares = {layer.name: layer.macs / layer.dense_macs for layer in counted.layers}
    assert shares["reader"] == pytest.approx((2 + 3) / 7)
    assert shares["grouped"] == pytest.approx(0.5)
    assert shares["classifier"] == pytest.approx((8 * 16 + 2 * 64) / (8 * 16 + 4 * 64))
    fbs = counted.layers[0]
    assert (fbs.kind, fbs.in_channels, fbs.out_channels, fbs.winners) == ("fbs", 3, 4, 2)
    assert fbs.macs == 3 * 2 * 9 * 64 + 3 * 2 + 4 * 64


def test_winners_in_blocks_are_counted_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 20, 1), nn.BatchNorm2d(20))
    x = torch.randn(2, 3, 8, 8)
    slim = FBS(density=0.5, winner_block=8, init="paper").attach(model, x)
    first, second = count_macs(slim, x).layers
    # 10 of 20 winners become two blocks of 8, also for a sample in which the block of 4 is one of the best two.
    assert (first.winners, second.winners) == (16, 16)
    assert first.macs == 3 * 16 * 9 * 36 + 3 * 16 + 20 * 36
    assert second.macs == 16 * 16 * 36 + 16 * 16 + 20 * 36


def test_batch_norm_and_unknown_operations_make_everything_live() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    for between in (nn.Sigmoid(), nn.BatchNorm2d(4), nn.ChannelShuffle(2), nn.Hardtanh(0.5, 1.0)):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), between, nn.Conv2d(4, 4, 1))
        reader = count_macs(FBS(density=0.5).attach(model, x), x).layers[-1]
        assert reader.macs == reader.dense_macs


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_exported_is_refused() -> None:
    with pytest.raises(GraphError, match="Branching cannot be exported"):
        count_macs(Branching(), torch.randn(1, 3, 4, 4))
