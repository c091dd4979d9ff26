"""A file without source and images without labels, at the command line: adopt, prune, export, and what it remembers."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import compress
from sklearn.datasets import load_digits
from torch import nn

from compressor import checkpoint
from compressor.data import load
from compressor.onnx_in import convolutions_without, program_from_json
from compressor.pipeline import slim
from compressor.pipeline.onnx_file import Inputs, open_onnx
from compressor.pipeline.prune import matching_data
from compressor.pipeline.speedup import MeasuredSpeedup
from compressor.train import TrainSettings, evaluate, loop, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, a trained digits network whose batch norms torch's exporter folds away; and images without labels."""
    place = tmp_path_factory.mktemp("journey")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    digits = load("digits")
    train(network, digits, settings=TrainSettings(epochs=4, batch_size=64, peak_lr=0.1, precision="32"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation notes of the older exporter, which is much the quicker one
        torch.onnx.export(
            network.eval(), (torch.zeros(2, 1, 8, 8),), str(place / "net.onnx"), dynamo=False, verbose=False
        )
    pixels = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    np.savez(place / "images.npz", images=pixels[:900])
    (place / "normal.json").write_text(json.dumps([digits.preprocessing.mean[0], digits.preprocessing.std[0]]))
    return place


@pytest.fixture
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast it is here is another test's matter."""
    measured = MeasuredSpeedup(1.0, 1.0, 1.0, 1.0, 1.0, None)
    monkeypatch.setattr(slim, "measure_speedup", lambda *_: measured)


def normal(folder: Path) -> tuple[str, str, str, str]:
    mean, std = json.loads((folder / "normal.json").read_text())
    return "--mean", str(mean), "--std", str(std)


def prune_words(folder: Path, *more: object) -> tuple[object, ...]:
    data = ("--data", f"images:{folder / 'images.npz'}", "--precision", "32", "--batch-size", 64, "--align", "off")
    return ("prune", folder / "net.onnx", *data, *normal(folder), *more)


def accuracy(file: Path, folder: Path) -> float:
    """On labelled digits that no command has seen."""
    mean, std = json.loads((folder / "normal.json").read_text())
    digits = load_digits()
    images = ((np.rint(digits.images[900:] * (255 / 16)) / 255 - mean) / std).astype(np.float32)[:, None]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[0]
    step = size if isinstance(size, int) else len(images)
    answers = [session.run(None, {session.get_inputs()[0].name: images[at : at + step]})[0].argmax(1)
               for at in range(0, len(images) - step + 1, step)]  # fmt: skip
    found = np.concatenate(answers)
    return float((found == digits.target[900 : 900 + len(found)]).mean())


@pytest.mark.usefixtures("_unmeasured")
def test_pruned_and_taught_by_itself(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slim = tmp_path / "slim.pt"
    assert compress(*prune_words(folder, "--method", "l1", "--budget", "macs=0.5x", "--epochs", 4, "-o", slim)) == 0
    said = capsys.readouterr()
    assert "batch norms put behind 3 convolutions" in said.err
    assert "val agreement" in said.out
    assert "before 100.00%" in said.out, "the network agrees with itself"
    assert compress("export", slim, "--batch", "dynamic", "--no-measure", "-o", tmp_path / "slim.onnx") == 0

    saved = checkpoint.load(slim)
    assert saved.architecture == "onnx:net"
    assert saved.record["metric"] == "agreement"
    model = checkpoint.rebuild(saved)
    images = torch.randn(5, 1, 8, 8)
    session = onnxruntime.InferenceSession(str(tmp_path / "slim.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(
            session.run(None, {session.get_inputs()[0].name: images.numpy()})[0], model(images).numpy(), atol=1e-4
        )
    # No label was used, and yet the labels are met.
    before, after = accuracy(folder / "net.onnx", folder), accuracy(tmp_path / "slim.onnx", folder)
    assert after > before - 0.05
    ops = [node.op_type for node in onnx.load(tmp_path / "slim.onnx").graph.node]
    assert "BatchNormalization" not in ops
    about = {entry.key: entry.value for entry in onnx.load(tmp_path / "slim.onnx").metadata_props}
    assert "compress.accuracy" not in about, "agreement is no accuracy"
    assert json.loads(about["compress.architecture"]) == {"name": "onnx:net", "kwargs": {}}


@pytest.mark.usefixtures("_unmeasured")
def test_adopted_once_and_pruned_twice(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, first, second = (tmp_path / name for name in ("dense.pt", "first.pt", "second.pt"))
    assert compress("adopt", folder / "net.onnx", "--data", "digits", "-o", dense) == 0
    assert "test accuracy 9" in capsys.readouterr().out
    words = ("--data", "digits", "--method", "l1", "--budget", "params=0.7x", "--align", "off", "--epochs", 0)
    assert compress("prune", dense, *words, "-o", first) == 0
    assert compress("prune", first, *words, "-o", second) == 0
    saved = checkpoint.load(second)
    assert saved.plan is not None
    assert len(saved.plan["steps"]) == 2
    assert convolutions_without(program_from_json(saved.architecture_kwargs["program"])) == ()
    assert saved.record["test_top1"] > 0.3
    assert checkpoint.rebuild(saved)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    # The same plan on the file itself.
    again = tmp_path / "again.pt"
    plan = ("--plan", first.with_suffix(".plan.json"), "--method", "l1", "--epochs", 0, "-o", again)
    assert compress(*prune_words(folder, *plan)) == 0
    assert checkpoint.load(again).plan["steps"] == saved.plan["steps"][:1]  # type: ignore[index]


@pytest.mark.usefixtures("_unmeasured")
def test_methods_that_need_batch_norms_have_them(folder: Path, tmp_path: Path) -> None:
    slimming = ("--method", "slimming", "--set", "sparse_epochs=1", "--budget", "macs=0.6x", "--epochs", 0)
    assert compress(*prune_words(folder, *slimming, "-o", tmp_path / "s.pt")) == 0
    assert (
        compress(*prune_words(folder, "--method", "fbs", "--density", 0.75, "--epochs", 2, "-o", tmp_path / "f.pt"))
        == 0
    )
    saved = checkpoint.load(tmp_path / "f.pt")
    assert saved.method == "fbs"
    with torch.no_grad():
        assert checkpoint.rebuild(saved)(torch.zeros(1, 1, 8, 8)).isfinite().all()


@pytest.mark.usefixtures("_unmeasured")
def test_a_stopped_run_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--method", "l1", "--budget", "macs=0.6x", "--epochs", 2)
    assert compress(*prune_words(folder, *words, "-o", tmp_path / "whole.pt")) == 0

    done = loop._one_epoch

    def stopping(run_: object, epoch: int, steps: int) -> object:
        if epoch == 1:
            raise KeyboardInterrupt
        return done(run_, epoch, steps)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_one_epoch", stopping)
        assert compress(*prune_words(folder, *words, "-o", tmp_path / "part.pt")) != 0
    assert compress(*prune_words(folder, *words, "--resume", "-o", tmp_path / "part.pt")) == 0
    whole, part = (checkpoint.load(tmp_path / f"{name}.pt").state for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_unlabelled_images_for_a_checkpoint_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress("adopt", folder / "net.onnx", *normal(folder), "-o", tmp_path / "net.pt") == 0
    images = ("--data", f"images:{folder / 'images.npz'}")
    assert compress("quantize", tmp_path / "net.pt", "--bits", 8, *images, "-o", tmp_path / "q.pt") == 0
    few = ("--calibration-images", 32, "--no-measure")
    assert compress("export", tmp_path / "net.pt", "--int8", *images, *few, "-o", tmp_path / "i.onnx") == 0
    assert compress("verify", tmp_path / "net.pt", tmp_path / "i.onnx", *images, "--images", 8) == 0
    capsys.readouterr()
    assert compress("train", "--arch", "digitsnet", *images, "-o", tmp_path / "t.pt") == 1
    assert "no labels" in capsys.readouterr().err
    assert compress("adopt", folder / "net.onnx", *images, *normal(folder), "-o", tmp_path / "a.pt") == 1
    assert "no labels" in capsys.readouterr().err


def test_a_softmax_at_the_end_is_undone_by_the_loss(folder: Path, tmp_path: Path) -> None:
    ended = onnx.load(folder / "net.onnx")
    logits = ended.graph.output[0].name
    ended.graph.node.append(onnx.helper.make_node("Softmax", [logits], ["p"], axis=1))
    ended.graph.output[0].name = "p"
    onnx.save(ended, tmp_path / "p.onnx")
    data = load("digits")
    plain, soft = (
        open_onnx(path, inputs=Inputs(), dataset=data) for path in (folder / "net.onnx", tmp_path / "p.onnx")
    )
    images = load(f"images:{folder / 'images.npz'}")
    for given in (data, images):
        losses = [
            evaluate(checkpoint.rebuild(saved), matching_data(given, saved, 0), "val").loss for saved in (plain, soft)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-6)
