import copy

import pytest
import torch
from torch import nn

from compressor.train import precision as precision_module
from compressor.train.precision import Precision, choose_precision, make_fabric

BATCH = (torch.randn(8, 3, 8, 8), torch.arange(8) % 4)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize("wanted", ["32", "bf16"])
def test_what_is_asked_for_is_taken(wanted: str) -> None:
    assert choose_precision(network(), iter([BATCH]), wanted=wanted).name == wanted


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU nothing is measured")
@pytest.mark.parametrize(("bf16_seconds", "name"), [(0.5, "bf16"), (0.95, "32"), (2.0, "32")])
def test_auto_takes_bf16_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, bf16_seconds: float, name: str
) -> None:
    def seconds(*_: object, bf16: bool) -> float:
        return bf16_seconds if bf16 else 1.0

    monkeypatch.setattr(precision_module, "_step_seconds", seconds)
    chosen = choose_precision(network(), iter([BATCH]))
    assert chosen.name == name
    assert f"{bf16_seconds * 1000:.0f} ms" in chosen.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU nothing is measured")
def test_measuring_leaves_the_network_and_the_random_state_alone() -> None:
    model = network()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    choose_precision(model, iter([BATCH]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


class FloatsOnly(nn.Module):
    """Hands its input to NumPy, which has no bfloat16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0 * float(x.detach().numpy().sum())


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU nothing is measured")
def test_auto_takes_float32_where_the_network_fails_in_bf16() -> None:
    chosen = choose_precision(nn.Sequential(network(), FloatsOnly()), iter([BATCH]))
    assert chosen.name == "32"
    assert "bf16 fails with TypeError" in chosen.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="bf16 is then announced elsewhere")
def test_fabric_says_nothing_of_its_own(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    make_fabric(Precision("bf16", channels_last=True, reason="asked for"))
    assert not caplog.text
    assert not capsys.readouterr().err
