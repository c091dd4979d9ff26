"""`compress adopt`: weights from elsewhere, in the forms that training scripts leave."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import compress

import models
from compressor import checkpoint


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build("digitsnet", in_channels=1).eval()


def stored(form: str, network: torch.nn.Module) -> Any:
    state = network.state_dict()
    parallel = {f"module.{name}": value for name, value in state.items()}
    return {
        "bare": state,
        "lightning": {"epoch": 3, "state_dict": state},
        "torchvision": {"model": state, "optimizer": {"state": {}}},
        "parallel": {"model": parallel, "epoch": 1},
    }[form]


@pytest.mark.parametrize("form", ["bare", "lightning", "torchvision", "parallel"])
def test_the_network_comes_back(form: str, network: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(stored(form, network), tmp_path / "weights.pth")
    assert (
        compress("adopt", tmp_path / "weights.pth", "--arch", "digitsnet", "--data", "digits", "-o", tmp_path / "m.pt")
        == 0
    )
    saved = checkpoint.load(tmp_path / "m.pt")
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(checkpoint.rebuild(saved)(images), network(images))
    assert saved.classes == tuple(map(str, range(10)))
    assert 0 <= saved.record["test_top1"] <= 1


def test_torchvision_weights_bring_their_normalisation(tmp_path: Path) -> None:
    torch.save(models.build("torchvision:mobilenet_v2").state_dict(), tmp_path / "weights.pth")
    assert (
        compress("adopt", tmp_path / "weights.pth", "--arch", "torchvision:mobilenet_v2", "-o", tmp_path / "m.pt") == 0
    )
    preprocessing = checkpoint.load(tmp_path / "m.pt").preprocessing
    assert preprocessing.size == (3, 224, 224)
    assert preprocessing.mean == (0.485, 0.456, 0.406)


def test_a_pickled_network_only_if_asked_for(
    network: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(network, tmp_path / "network.pth")
    words = ("adopt", tmp_path / "network.pth", "--arch", "digitsnet", "--arch-set", "in_channels=1")
    words = (*words, "--mean", 0.5, "--std", 0.25, "-o", tmp_path / "m.pt")
    assert compress(*words) == 1
    assert "--unsafe-pickle" in capsys.readouterr().err
    assert not (tmp_path / "m.pt").exists()
    assert compress(*words, "--unsafe-pickle") == 0
    assert checkpoint.load(tmp_path / "m.pt").preprocessing.mean == (0.5,)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--arch", "digitsnet", "--arch-set", "in_channels=1"), "give --mean and --std"),
        (("--arch", "digitsnet", "--arch-set", "in_channels=1", "--mean", "1,1", "--std", "1,1"), "takes 1 channels"),
        (("--arch", "digitsnet", "--arch-set", "in_channels=1", "--mean", "0", "--std", "0"), "above 0"),
        (("--arch", "cifarnet", "--mean", "0,0,0", "--std", "1,1,1"), "do not fit"),
        (("--arch", "nosuch", "--mean", "0", "--std", "1"), "nosuch"),
    ],
)
def test_what_does_not_fit_is_one_line(
    options: tuple[str, ...], says: str, network: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    assert compress("adopt", tmp_path / "weights.pth", *options, "-o", tmp_path / "m.pt") == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m.pt").exists()


def test_a_network_of_ones_own_need_not_say_its_size(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\ndef net(num_classes=10):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))\n"
    )
    arch = f"{tmp_path / 'own.py'}:net"
    torch.save(models.build(arch).state_dict(), tmp_path / "weights.pth")
    assert compress("adopt", tmp_path / "weights.pth", "--arch", arch, "--data", "digits", "-o", tmp_path / "m.pt") == 0
    words = ("train", "--arch", arch, "--data", "digits", "--epochs", 1, "--precision", "32", "-o", tmp_path / "t.pt")
    assert compress(*words) == 0
