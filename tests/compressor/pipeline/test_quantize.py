import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from command_line import compress

from compressor import checkpoint
from compressor.data import Dataset, TensorSplit, load
from compressor.errors import BudgetError, CheckpointError, CompressorError
from compressor.methods.fbs import FBS, layers
from compressor.pipeline.export import export_network
from compressor.pipeline.inspect import inspect_network
from compressor.pipeline.prune import prune
from compressor.pipeline.quantize import BitWishes, QuantizedNetwork, quantize
from compressor.pipeline.slim import Wishes, slim
from compressor.pipeline.train import train_dense
from compressor.pipeline.word_lengths import PREDICTOR_BITS
from compressor.quantise import Scheme, dequantise, kernel_names, layer_storage, read
from compressor.select import parse_budget
from compressor.train import Progress, TrainSettings, evaluate
from exporters.inspect import inspect_onnx

SETTINGS = TrainSettings(epochs=0, batch_size=64, peak_lr=0.02, clip_norm=5.0, precision="32")
NETWORK = """
from torch import nn


def tiny(num_classes=10):
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes),
    )
    net.input_size = (1, 8, 8)
    return net
"""
KERNELS = ["0.weight", "3.weight", "8.weight"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize")
    (folder / "net.py").write_text(NETWORK)
    settings = TrainSettings(epochs=4, batch_size=64, peak_lr=0.2, precision="32", seed=3)
    train_dense(f"{folder / 'net.py'}:tiny", "digits", output=folder / "dense.pt", settings=settings)
    return folder


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Fewer images: enough to train on in a test."""
    dataset = load("digits", seed=3)
    assert isinstance(dataset.train, TensorSplit)
    return replace(dataset, train=TensorSplit(dataset.train.images[:320], dataset.train.labels[:320]))


def run(folder: Path, output: Path, source: str = "dense.pt", **changes: object) -> QuantizedNetwork:
    changes.setdefault("wishes", BitWishes(bits=4))
    changes.setdefault("settings", SETTINGS)
    return quantize(folder / source, output=output, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(per_channel=True), Scheme(pow2=True)])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_checkpoint_rebuilds_the_network_that_was_measured(
    folder: Path, tmp_path: Path, bits: int, scheme: Scheme
) -> None:
    result = run(folder, tmp_path / "q.pt", wishes=BitWishes(bits=bits, scheme=scheme), data="digits")
    saved = checkpoint.load(tmp_path / "q.pt")
    assert saved.record == json.loads(json.dumps(saved.record))
    assert saved.fixed_point is not None
    fixed = read(saved.fixed_point, saved.state)
    assert list(fixed) == KERNELS
    model = checkpoint.rebuild(saved)
    for name, values in fixed.items():
        assert values.bits == bits
        assert torch.equal(model.get_parameter(name), dequantise(values))
        assert values.step.shape == ((len(model.get_parameter(name)),) if scheme.per_channel else ())
    dataset = load("digits", seed=3)  # the split that the dense network was not trained on
    assert evaluate(model, dataset, "val").top1 == result.val_top1 == saved.record["val_top1"]
    assert evaluate(model, dataset, "test").top1 == result.test_top1 == saved.record["test_top1"]
    assert result.val_before == checkpoint.load(folder / "dense.pt").record["val_top1"]
    assert f"{bits} bits" in result.summary()
    assert ("Q" in result.summary()) == scheme.pow2


def test_other_weights_are_untouched_and_nothing_else_is_left(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "q.pt")
    before, after = (checkpoint.load(path).state for path in (folder / "dense.pt", tmp_path / "q.pt"))
    assert list(before) == list(after)
    assert [name for name in before if not torch.equal(before[name], after[name])] == KERNELS
    assert [path.name for path in tmp_path.iterdir()] == ["q.pt"]


def test_10_storage_is_recomputed_from_the_saved_file(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "q.pt", wishes=BitWishes(bits=5, scheme=Scheme(per_channel=True)))
    saved = checkpoint.load(tmp_path / "q.pt")
    assert saved.fixed_point is not None
    found = [layer_storage(name, values).to_json() for name, values in read(saved.fixed_point, saved.state).items()]
    assert found == saved.record["storage"]
    sizes = {"0.weight": (8, 8 * 9), "3.weight": (16, 16 * 8 * 9), "8.weight": (10, 640)}
    assert [entry["packed_bits"] for entry in found] == [n * 5 + steps * 32 for steps, n in sizes.values()]
    floats = sum(value.numel() for name, value in saved.state.items() if value.is_floating_point()) - 8 * 9 - 1152 - 640
    bits = sum(entry["packed_bits"] for entry in found) + 32 * floats
    assert result.packed_bytes == saved.record["packed_bytes"] == -(-bits // 8)
    assert (tmp_path / "q.pt").stat().st_size < (folder / "dense.pt").stat().st_size


def test_same_command_gives_the_same_weights(folder: Path, tmp_path: Path, digits: Dataset) -> None:
    settings = replace(SETTINGS, epochs=2)
    for name in ("a.pt", "b.pt"):
        run(folder, tmp_path / name, wishes=BitWishes(bits=2), data=digits, settings=settings)
    states = [checkpoint.load(tmp_path / name).state for name in ("a.pt", "b.pt")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_retraining_wins_back_accuracy_at_two_bits(folder: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=3)
    result = run(folder, tmp_path / "q.pt", wishes=BitWishes(bits=2), data="digits", settings=settings)
    assert result.val_direct is not None
    assert result.val_top1 is not None
    assert result.val_top1 > result.val_direct + 0.1
    saved = checkpoint.load(tmp_path / "q.pt")
    assert evaluate(checkpoint.rebuild(saved), load("digits", seed=3), "val").top1 == result.val_top1
    assert {int(level) for level in read(saved.fixed_point or {}, saved.state)["3.weight"].levels.unique()} == {
        -1,
        0,
        1,
    }


class KilledError(Exception):
    pass


class KillAfter(Progress):
    """Stops the run with the first epoch's line."""

    def line(self, text: str) -> None:
        if text.startswith("epoch 2"):
            raise KilledError


def test_a_stopped_retraining_goes_on_and_ends_the_same(folder: Path, tmp_path: Path, digits: Dataset) -> None:
    options = {"wishes": BitWishes(bits=3), "data": digits, "settings": replace(SETTINGS, epochs=3)}
    run(folder, tmp_path / "whole.pt", **options)
    with pytest.raises(KilledError):
        run(folder, tmp_path / "again.pt", progress=KillAfter(), **options)
    assert not (tmp_path / "again.pt").exists()
    run(folder, tmp_path / "again.pt", resume=True, **options)
    states = [checkpoint.load(tmp_path / name).state for name in ("whole.pt", "again.pt")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run(folder, tmp_path / "again.pt", resume=True, **options)


def test_fewest_bits_within_an_accuracy_limit(folder: Path, tmp_path: Path) -> None:
    loose = run(folder, tmp_path / "loose.pt", wishes=BitWishes(max_drop=0.05), data="digits")
    tight = run(folder, tmp_path / "tight.pt", wishes=BitWishes(max_drop=0.01), data="digits")
    for result, drop in ((loose, 0.05), (tight, 0.01)):
        assert result.val_direct is not None
        assert result.val_before is not None
        assert result.val_direct >= result.val_before - drop
        assert len(result.sensitivity) == len(KERNELS) * 7
        assert min(layer.bits for layer in result.layers) < 8
    assert loose.packed_bytes <= tight.packed_bytes
    assert len(checkpoint.load(tmp_path / "loose.pt").record["sensitivity"]) == len(KERNELS) * 7


def test_words_of_eight_and_four_bits_within_a_size_limit(folder: Path, tmp_path: Path) -> None:
    largest = run(folder, tmp_path / "8.pt", wishes=BitWishes(bits=8)).file_bytes
    smallest = run(folder, tmp_path / "4.pt", wishes=BitWishes(bits=4)).file_bytes
    limit = (largest + smallest) // 2
    result = run(folder, tmp_path / "q.pt", wishes=BitWishes(max_bytes=limit), data="digits")
    assert smallest <= result.file_bytes <= limit
    assert {layer.bits for layer in result.layers} == {8, 4}
    roomy = run(folder, tmp_path / "roomy.pt", wishes=BitWishes(max_bytes=largest), data="digits")
    assert {layer.bits for layer in roomy.layers} == {8}


def test_sweep_leaves_the_network_as_it_was(folder: Path, tmp_path: Path) -> None:
    plain = run(folder, tmp_path / "plain.pt", data="digits")
    swept = run(folder, tmp_path / "swept.pt", wishes=BitWishes(bits=4, sweep=True), data="digits")
    assert [(entry.name, entry.bits) for entry in swept.sensitivity] == [(name, 4) for name in KERNELS]
    assert swept.val_direct == plain.val_direct
    states = [checkpoint.load(tmp_path / name).state for name in ("plain.pt", "swept.pt")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture(scope="module")
def fbs(folder: Path, digits: Dataset) -> Path:
    settings = replace(SETTINGS, epochs=1)
    prune(folder / "dense.pt", data=digits, density=0.5, output=folder / "fbs.pt", epochs=1, settings=settings)
    return folder / "fbs.pt"


def test_it_comes_after_fbs_and_keeps_predictors_longer(
    fbs: Path, folder: Path, tmp_path: Path, digits: Dataset
) -> None:
    settings = replace(SETTINGS, epochs=1)
    result = run(folder, tmp_path / "q.pt", "fbs.pt", data=digits, wishes=BitWishes(bits=3), settings=settings)
    saved = checkpoint.load(tmp_path / "q.pt")
    assert (saved.method, saved.density) == ("fbs", 0.5)
    model = checkpoint.rebuild(saved)
    assert {layer.density for layer in layers(model).values()} == {0.5}
    words = {layer.name: layer.bits for layer in result.layers}
    assert words == {
        **dict.fromkeys(kernel_names(model), 3),
        **dict.fromkeys((f"{name}.saliency_weight" for name in layers(model)), PREDICTOR_BITS),
    }
    assert len(layers(model)) == 2
    assert f"3 bits, FBS's predictors {PREDICTOR_BITS} bits," in result.summary()
    assert evaluate(model, digits, "val").top1 == result.val_top1
    before = checkpoint.load(fbs)
    assert not torch.equal(before.state["0.beta"], saved.state["0.beta"])  # it was retrained, in float
    assert isinstance(FBS(**(saved.method_settings or {})), FBS)


def test_it_comes_after_channels_were_removed(folder: Path, tmp_path: Path, digits: Dataset) -> None:
    slim(
        folder / "dense.pt",
        method="l1",
        data=digits,
        wishes=Wishes(budget=parse_budget("density=0.5")),
        output=folder / "slim.pt",
        epochs=0,
    )
    result = run(folder, tmp_path / "q.pt", "slim.pt", data=digits, wishes=BitWishes(bits=6))
    saved = checkpoint.load(tmp_path / "q.pt")
    assert saved.plan is not None
    assert sum(layer.weights for layer in result.layers) < 0.9 * (72 + 1152 + 640)
    assert evaluate(checkpoint.rebuild(saved), digits, "val").top1 == result.val_top1


def test_pruned_weights_stay_zero_through_quantisation_and_retraining(
    folder: Path, tmp_path: Path, digits: Dataset
) -> None:
    dense = checkpoint.load(folder / "dense.pt")
    holes = dict(dense.state)
    mask = torch.rand(holes["3.weight"].shape, generator=torch.Generator().manual_seed(0)) < 0.4
    holes["3.weight"] = holes["3.weight"] * mask
    source = replace(dense, state=holes)
    settings = replace(SETTINGS, epochs=1)
    quantize(source, wishes=BitWishes(bits=4), data=digits, output=tmp_path / "q.pt", settings=settings)
    after = checkpoint.load(tmp_path / "q.pt").state["3.weight"]
    assert not after[~mask].any()
    assert not torch.equal(after, holes["3.weight"])


def test_exported_files_hold_words_and_equal_torch(fbs: Path, folder: Path, tmp_path: Path) -> None:
    for source in ("dense.pt", "fbs.pt"):
        run(folder, tmp_path / source, source, wishes=BitWishes(bits=4))
        files = [
            export_network(str(path), output=tmp_path / f"{index}.onnx").file
            for index, path in enumerate((folder / source, tmp_path / source))
        ]
        assert files[1].max_difference <= 1e-4
        held = {tensor.name: tensor for tensor in onnx.load(files[1].path).graph.initializer}
        saved = checkpoint.load(tmp_path / source)
        integers = [tensor for tensor in held.values() if tensor.name.endswith(".levels")]
        assert len(integers) == len(saved.fixed_point or {})
        large, small = (sum(node.weight_bytes for node in inspect_onnx(file.path).nodes) for file in files)
        assert small < 0.4 * large
        assert files[1].file_bytes < files[0].file_bytes
    assert "weights in 4 and 8 bits" in inspect_network(str(tmp_path / "fbs.pt")).description


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"wishes": BitWishes(bits=9)}, CompressorError, "9 bits; fixed-point weights have 2 to 8"),
        ({"wishes": BitWishes(bits=1)}, CompressorError, "1 bits; fixed-point weights have 2 to 8"),
        ({"wishes": BitWishes()}, CompressorError, r"give one of --bits \(2 to 8\)"),
        ({"wishes": BitWishes(bits=4, max_drop=0.1)}, CompressorError, "give one of --bits"),
        ({"wishes": BitWishes(max_drop=0.01)}, CompressorError, "needs data: add --data"),
        ({"wishes": BitWishes(max_bytes=10_000)}, CompressorError, "needs data: add --data"),
        ({"wishes": BitWishes(bits=4, sweep=True)}, CompressorError, "needs data: add --data"),
        ({"settings": replace(SETTINGS, epochs=1)}, CompressorError, "retraining needs data"),
        ({"resume": True}, CompressorError, "no retraining to resume"),
        ({"wishes": BitWishes(max_drop=2.0), "data": "digits"}, CompressorError, "a drop of 200 points"),
        ({"wishes": BitWishes(max_bytes=10), "data": "digits"}, BudgetError, "10 bytes are too few: with 4 bits"),
        ({"source": "nothing.pt"}, CheckpointError, r"no file .*nothing\.pt"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    folder: Path, tmp_path: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        run(folder, tmp_path / "q.pt", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_fixed_point_comes_last(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match=r"q\.pt is in fixed point already; give the float network"):
        quantize(tmp_path / "q.pt", wishes=BitWishes(bits=4), output=tmp_path / "again.pt")
    with pytest.raises(CheckpointError, match="is in fixed point, which comes last"):
        prune(tmp_path / "q.pt", data="digits", density=0.5, output=tmp_path / "again.pt", epochs=1)
    with pytest.raises(CheckpointError, match="is in fixed point, which comes last"):
        slim(
            tmp_path / "q.pt",
            method="l1",
            data="digits",
            wishes=Wishes(budget=None),
            output=tmp_path / "b.pt",
            epochs=0,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["q.pt"]


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, output = folder / "dense.pt", tmp_path / "q.pt"
    assert compress("quantize", dense, "--bits", 4, "--per-channel", "-o", output) == 0
    assert "accuracy not measured (no --data)" in capsys.readouterr().out
    assert compress("quantize", dense, "--bits", 9, "-o", output) == 1
    assert capsys.readouterr().err == "compress: 9 bits; fixed-point weights have 2 to 8\n"
    assert compress("quantize", dense, "--bits", 4, "--max-drop", 1, "-o", output) == 2
    assert compress("quantize", dense, "--max-bytes", "few", "-o", output) == 2
    assert compress("quantize", dense, "--max-drop", 1, "-o", output) == 1
    assert "add --data" in capsys.readouterr().err
