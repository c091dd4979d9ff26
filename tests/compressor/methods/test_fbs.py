import logging

import pytest
import torch
from torch import Tensor, nn

import models
from compressor.errors import MethodError
from compressor.methods.fbs import FBS, at_density, layers, set_density
from compressor.methods.fbs_layer import FBSConv2d, FBSFolded

# Twenty layers of float32 sums, each in another order.
DEEP = 1e-4

# Eligible layers of each network: all of its convolutions.
NETWORKS = {"cifarnet": 8, "vgg16": 13, "resnet20": 21, "torchvision:resnet18": 20}


def trained(spec: str) -> tuple[nn.Module, Tensor]:
    """A network whose batch norms are what training makes of them: signs, shifts and statistics."""
    torch.manual_seed(0)
    model = models.build(spec).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            with torch.no_grad():
                module.weight[::3] *= -1
    channels, side, _ = models.input_size(spec)
    return model, torch.randn(2, channels, min(side, 64), min(side, 64))


@pytest.mark.parametrize(("spec", "count"), NETWORKS.items())
def test_01_every_layer_is_replaced_and_logits_stay(spec: str, count: int) -> None:
    model, x = trained(spec)
    fbs = FBS(density=1.0)
    assert fbs.ineligible(model, x) == {}
    slim = fbs.attach(model, x)
    assert len(layers(slim)) == count
    assert not [module for module in slim.modules() if isinstance(module, nn.BatchNorm2d) and module.affine]
    for layer in layers(slim).values():
        nn.init.zeros_(layer.saliency_weight)
    with torch.no_grad():
        expected, came = model(x), slim(x)
    torch.testing.assert_close(came, expected, rtol=DEEP, atol=DEEP)


@pytest.mark.parametrize("spec", ["cifarnet", "resnet20"])
def test_01_logits_stay_to_1e_5_in_float32(spec: str) -> None:
    model, x = trained(spec)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.mul_(0.3)  # activations, and so rounding, of ordinary size
    slim = FBS(density=1.0).attach(model, x)
    for layer in layers(slim).values():
        nn.init.zeros_(layer.saliency_weight)
    with torch.no_grad():
        assert (model(x) - slim(x)).abs().max() < 1e-5


def test_all_layers_train_at_half_density_on_a_residual_network() -> None:
    model, x = trained("resnet20")
    method = FBS(density=0.5)
    slim = method.attach(model, x).train()
    (slim(x).square().mean() + method.penalty(slim)).backward()
    for name, parameter in slim.named_parameters():
        assert parameter.grad is not None, f"no gradient for {name}"
        assert torch.isfinite(parameter.grad).all(), name
    for layer in layers(slim).values():
        assert layer.winners == layer.conv.out_channels // 2


class Mixed(nn.Module):
    """One eligible layer beside several that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.depthwise_bn = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_bn(self.first(x)).relu()
        x = self.depthwise_bn(self.depthwise(x)).relu()
        return self.head(x).mean((2, 3))


def test_ineligible_layers_stay_dense_and_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    model, x = Mixed(), torch.randn(2, 3, 8, 8)
    with caplog.at_level(logging.INFO):
        slim = FBS().attach(model, x)
    assert list(layers(slim)) == ["first"]
    assert isinstance(slim.first_bn, nn.Identity)
    reasons = FBS().ineligible(model, x)
    assert "8 groups" in reasons["depthwise"]
    assert "not to a batch norm" in reasons["head"]
    assert "depthwise stays dense" in caplog.text


def test_saliency_is_inherited_where_no_activation_follows() -> None:
    model, x = trained("resnet20")
    slopes = {name: layer.saliency_slope for name, layer in layers(FBS(saliency="inherit").attach(model, x)).items()}
    signed = {name for name, slope in slopes.items() if slope == 1.0}
    assert signed == {name for name in slopes if name.endswith(("conv2.conv", "shortcut.conv"))}
    assert all(layer.saliency_slope == 0.0 for layer in layers(FBS().attach(model, x)).values())


def test_only_the_image_is_signed() -> None:
    model, x = trained("resnet20")
    signed = [name for name, layer in layers(FBS().attach(model, x)).items() if not layer.nonnegative_input]
    assert signed == ["stem.conv"]


def test_10_penalty_is_the_factor_times_the_sum_over_layers() -> None:
    model, x = trained("cifarnet")
    method = FBS(l1=0.5)
    slim = method.attach(model, x)
    assert method.penalty(slim) is None  # nothing has run
    slim.train()(x)
    total = sum(layer.saliency_l1 for layer in layers(slim).values())
    torch.testing.assert_close(method.penalty(slim), 0.5 * total)
    assert FBS(l1=0.0).penalty(slim) is None


def test_11_another_density_is_asked_for_by_name_and_taken_back() -> None:
    model, x = trained("cifarnet")
    slim = FBS(density=0.5).attach(model, x).eval()
    with torch.no_grad():
        before = slim(x)
        with at_density(slim, 0.25):
            assert all(layer.density == 0.25 for layer in layers(slim).values())
            assert not torch.equal(slim(x), before)
        assert torch.equal(slim(x), before)
    with pytest.raises(MethodError, match=r"density 1\.5 is not in"):
        set_density(slim, 1.5)


def test_predictors_do_not_decay() -> None:
    model, x = trained("cifarnet")
    method = FBS()
    slim = method.attach(model, x)
    decayed, free = method.parameters(slim)
    assert "weight_decay" not in decayed
    assert free["weight_decay"] == 0.0
    expected = {id(layer.conv.weight) for layer in layers(slim).values()} | {id(slim.classifier.weight)}
    assert {id(parameter) for parameter in decayed["params"]} == expected


def test_same_seed_same_start() -> None:
    model, x = trained("cifarnet")
    first, again, other = (FBS(seed=seed).attach(model, x).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_description_is_the_folded_layers() -> None:
    model, x = trained("cifarnet")
    method = FBS(density=0.5)
    description = method.detach(method.attach(model, x))
    assert list(description) == [f"features.{index}.conv" for index in (0, 1, 2, 3, 5, 6, 7, 9)]
    assert all(isinstance(layer, FBSFolded) for layer in description.values())
    assert description["features.9.conv"].winners == 96


@pytest.mark.parametrize(
    ("settings", "epochs", "expected"),
    [
        ({"density": 0.5}, None, [1.0, 0.9, 0.8, 0.7, 0.6] + [0.5] * 11),
        ({"density": 0.5}, 8, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5]),
        ({"density": 0.5}, 3, [0.9, 0.7, 0.5]),
        ({"density": 0.5}, 1, [0.5]),
        ({"density": 1.0}, 2, [1.0, 1.0]),
        ({"density": 0.75, "step_epochs": 2}, 8, [1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.75, 0.75]),
        ({"density": 0.5, "density_step": 0.25, "final_epochs": 2}, None, [1.0, 0.75, 0.5, 0.5]),
    ],
)
def test_schedule_falls_to_the_density_and_ends_there(
    settings: dict, epochs: int | None, expected: list[float]
) -> None:
    assert FBS(**settings).schedule(epochs) == expected


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"density": 0.0}, r"density=0\.0 is not in \(0, 1\]"),
        ({"density_step": 2.0}, r"density_step=2\.0"),
        ({"l1": -1.0}, "l1=-1.0 is below 0"),
        ({"step_epochs": 0}, "step_epochs=0 is below 1"),
        ({"form": "papre"}, "form='papre'; choose from: paper, released"),
        ({"winner_block": 0}, "winner_block=0 is below 1"),
        ({"saliency": "none"}, "saliency='none'; choose from: inherit, relu"),
        ({"saliency": "inherit", "normalize": True}, "normalize needs"),
    ],
)
def test_settings_outside_their_range_are_refused_with_the_range(settings: dict, text: str) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.randn(1, 3, 8, 8)
    with pytest.raises(MethodError, match=text):
        FBS(**settings).attach(model, x)


def test_networks_without_eligible_layers_are_refused_with_the_reasons() -> None:
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(MethodError, match=r"no convolution of Sequential .* \(0: its output goes to relu"):
        FBS().attach(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), x)
    once = FBS().attach(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), x)
    assert isinstance(once[0], FBSConv2d)
    with pytest.raises(MethodError, match="has FBS layers already"):
        FBS().attach(once, x)
