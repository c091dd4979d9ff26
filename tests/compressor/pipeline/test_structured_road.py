"""Structured pruning through the command line, and what the other commands make of its checkpoint."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from command_line import compress
from torch import nn

import compressor
import models
from compressor import checkpoint, data
from compressor.methods.structured_density import count_weights
from compressor.train import TrainSettings, train

NETWORK = """
from torch import nn

def small(num_classes=10):
    def block(before, after, stride=1):
        return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes)]
    model = nn.Sequential(*block(1, 16), *block(16, 16, 2), *block(16, 16), *head)
    model.input_size = (1, 8, 8)
    return model
"""
SHORT = ("--batch-size", 64, "--precision", "32", "--align", "off", "--set", "particles=4", "--set", "images=100")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structured")
    (folder / "small.py").write_text(NETWORK)
    digits, name = data.load("digits"), f"{folder / 'small.py'}:small"
    torch.manual_seed(0)
    model = models.build(name)
    train(model, digits, settings=TrainSettings(epochs=4, batch_size=64, precision="32"))
    record = {"split_seed": 0, "test_top1": 0.5}
    saved = checkpoint.CompressedCheckpoint(
        name, {}, digits.preprocessing, digits.classes, model.state_dict(), record=record
    )
    checkpoint.save(saved, folder / "dense.pt")
    return folder / "dense.pt"


def test_all_three_granularities_and_then_fixed_point(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slim = tmp_path / "slim.pt"
    words = ("prune", dense, "--method", "structured", "--data", "digits", "--budget", "macs=0.6x", "--epochs", 2)
    asked = ("kernel_density=0.7", "stride=2", "per_axis=true", "sharing=layer", "scope=net", "max_drop=1.0")
    settings = [word for setting in asked for word in ("--set", setting)]
    assert compress(*words, *SHORT, *settings, "-o", slim) == 0
    told = capsys.readouterr()
    assert "macs" in told.err.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slim.plan.json", "slim.pt"]

    saved = checkpoint.load(slim)
    assert saved.method is None
    model = checkpoint.rebuild(saved)
    layers = count_weights(model)
    assert saved.record["convolutions"]["live"] == sum(layer.live for layer in layers)
    assert saved.record["convolutions"]["weights_before"] == 9 * (16 + 256 + 256)
    channels = [search for search in saved.record["searches"] if search["granularity"] == "channel"]
    assert channels
    assert set(json.loads(slim.with_suffix(".plan.json").read_text())["taps"]) == {"0", "3", "6"}
    for layer in layers[1:]:
        assert layer.live_kernels == pytest.approx(0.7 * layer.kernels, abs=1), "still so after the fine-tuning"
    assert model.get_submodule("3").kernel_size < (3, 3)

    file = slim.with_suffix(".onnx")
    assert compress("export", slim, "-o", file, "--no-measure") == 0
    assert compress("verify", slim, file, "--data", "digits", "--images", 8) == 0
    words = ("quantize", slim, "--bits", 6, "--data", "digits", "--epochs", 1, "--precision", "32")
    assert compress(*words, "-o", tmp_path / "fixed.pt") == 0
    fixed = count_weights(checkpoint.rebuild(checkpoint.load(tmp_path / "fixed.pt")))
    assert all(after.live <= before.live for after, before in zip(fixed, layers, strict=True))


def test_the_budget_is_met(dense: Path, tmp_path: Path) -> None:
    words = ("prune", dense, "--method", "structured", "--data", "digits", "--budget", "macs=0.5x", "--epochs", 0)
    slim = tmp_path / "slim.pt"
    assert compress(*words, *SHORT, "--set", "scope=net", "--set", "layer_epochs=0", "-o", slim) == 0
    record = checkpoint.load(slim).record
    assert record["macs"] == pytest.approx(0.5 * record["before"]["macs"], rel=0.02)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ((), "--set kernel_density=0.5"),
        (("--budget", "macs=0.001x"), "closest reachable"),
        (("--budget", "macs=0.5x", "--set", "scope=everything"), "choose from: layer, net"),
        (("--budget", "macs=0.5x", "--remove-branches"), "--remove-branches"),
        (("--budget", "macs=0.5x", "--tensorboard", "events"), "--tensorboard"),
        (("--set", "stride=2", "--exclude", "*"), "positions inside kernels"),
        (("--set", "stride=2", "--resume"), "nothing to resume"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    dense: Path, tmp_path: Path, options: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("prune", dense, "--method", "structured", "--data", "digits", "--epochs", 0, *SHORT)
    assert compress(*words, *options, "-o", tmp_path / "no.pt") == 1
    assert hint in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_network_of_linear_layers_alone_is_cut_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    layers = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    dense, slim = tmp_path / "dense.pt", tmp_path / "slim.pt"
    arch = ("--arch", f"{tmp_path / 'net.py'}:net")
    assert compress("train", *arch, "--data", "digits", "--epochs", 1, "--precision", "32", "-o", dense) == 0
    words = ("prune", dense, "--method", "structured", "--data", "digits", "--budget", "macs=0.5x", "--epochs", 0)
    assert compress(*words, *SHORT, "-o", slim) == 0
    assert "convolutions" not in capsys.readouterr().err
    record = checkpoint.load(slim).record
    assert record["macs"] == pytest.approx(0.5 * record["before"]["macs"], rel=0.02)


def test_kernels_of_ones_own_network_from_python(dense: Path) -> None:
    model = checkpoint.rebuild(checkpoint.load(dense))
    digits = data.load("digits")
    train_batches, val_batches = (list(digits.batches(split, data.Loader(64)))[:4] for split in ("train", "val"))
    settings = {"kernel_density": 0.5, "particles": 4, "images": 64, "layer_epochs": 0, "max_drop": 1.0}
    result = compressor.compress(
        model,
        torch.zeros(2, 1, 8, 8),
        method="structured",
        train=train_batches,
        val=val_batches,
        epochs=1,
        settings=TrainSettings(precision="32", peak_lr=0.01),
        method_settings=settings,
        verbose=False,
    )
    layers = count_weights(result.model)
    assert [layer.live_kernels / layer.kernels for layer in layers] == [1.0, 0.5, 0.5]
    pixels = [64, 16, 16]
    live_macs = sum(layer.live * size for layer, size in zip(layers, pixels, strict=True)) + 160
    assert result.checkpoint.record["convolutions"]["live_macs"] == pytest.approx(live_macs)
    assert result.report["macs"] == result.report["macs_before"], "dense convolutions still"


@pytest.mark.parametrize(
    "method",
    [
        ("l1", "--budget", "macs=0.6x"),
        ("fbs", "--density", 0.5),
        ("gate-decorator", "--budget", "macs=0.6x"),
        ("rbp", "--budget", "macs=0.6x"),
    ],
)
def test_zeros_inside_kernels_are_not_trained_away(
    dense: Path, tmp_path: Path, method: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    saved = checkpoint.load(dense)
    record = {**saved.record, "method": "structured", "settings": {"kernel_density": 0.5, "stride": 1}}
    checkpoint.save(dataclasses.replace(saved, record=record), tmp_path / "kernels.pt")
    words = ("prune", tmp_path / "kernels.pt", "--method", *method, "--data", "digits", "-o", tmp_path / "lost.pt")
    assert compress(*words) == 1
    assert "structured: kernels" in capsys.readouterr().err
    assert not (tmp_path / "lost.pt").exists()


BEFORE = {
    "gate-decorator": ("prune_fraction=0.2", "tick_images=128", "ticks_per_tock=1", "tock_epochs=1"),
    "rbp": ("layer_epochs=1", "share_epochs=1", "bn_batches=2"),
}


def prune(source: Path, method: str, output: Path, *words: object, settings: tuple[str, ...] = ()) -> int:
    asked = [word for setting in settings for word in ("--set", setting)]
    wishes = ("--data", "digits", "--epochs", 1, *SHORT[:4], *words, *asked, "-o", output)
    return compress("prune", source, "--method", method, *wishes)


@pytest.mark.parametrize("first", ["gate-decorator", "rbp"])
def test_it_comes_after_methods_that_remove_channels_and_before_fixed_point(
    dense: Path, tmp_path: Path, first: str
) -> None:
    slim, inside, fixed = tmp_path / "slim.pt", tmp_path / "inside.pt", tmp_path / "fixed.pt"
    assert prune(dense, first, slim, "--budget", "macs=0.6x", "--align", "off", settings=BEFORE[first]) == 0
    settings = ("kernel_density=0.6", "stride=2", "layer_epochs=0", "max_drop=1.0")
    assert prune(slim, "structured", inside, *SHORT[4:], settings=settings) == 0
    assert compress("quantize", inside, "--bits", 5, "--data", "digits", "-o", fixed) == 0

    widths = [conv.out_channels for conv in convolutions(slim)]
    assert sum(widths) < 3 * 16
    assert [conv.out_channels for conv in convolutions(inside)] == widths
    layers = count_weights(checkpoint.rebuild(checkpoint.load(inside)))
    for layer in layers[1:]:
        assert layer.live_kernels == pytest.approx(0.6 * layer.kernels, abs=1)
    for before, after in zip(convolutions(inside), convolutions(fixed), strict=True):
        assert not after.weight[before.weight == 0].any()
        assert len(after.weight.unique()) <= 2**5 - 1
    assert checkpoint.load(fixed).fixed_point is not None
    assert compress("export", fixed, "--no-measure", "-o", tmp_path / "m.onnx") == 0


def convolutions(path: Path) -> list[nn.Conv2d]:
    model = checkpoint.rebuild(checkpoint.load(path))
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_with_fbs_channels_go_first_and_fixed_point_comes_last(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slim, fbs, fixed = tmp_path / "slim.pt", tmp_path / "fbs.pt", tmp_path / "fixed.pt"
    assert prune(dense, "structured", slim, *SHORT[4:], "--budget", "macs=0.7x", settings=("layer_epochs=0",)) == 0
    assert prune(slim, "fbs", fbs, "--density", 0.5) == 0
    assert compress("quantize", fbs, "--bits", 5, "-o", fixed) == 0
    saved = checkpoint.load(fixed)
    assert (saved.method, saved.density) == ("fbs", 0.5)
    assert saved.fixed_point is not None
    assert any(name.endswith("saliency_weight") for name in saved.fixed_point)
    capsys.readouterr()

    for source, told in ((fbs, "has fbs attached already; give the network it was made from"), (fixed, "fbs attached")):
        assert prune(source, "structured", tmp_path / "no.pt", *SHORT[4:], settings=("stride=2",)) == 1
        assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "no.pt").exists()
