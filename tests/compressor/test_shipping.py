"""Files for shipping through the command line: preprocessing, int8, provenance, the digest of a report."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import compress

import models
import runtime
from compressor import checkpoint
from compressor.data import Loader, load
from compressor.methods.fbs import FBS
from compressor.pipeline import export as pipeline_export
from compressor.pipeline import int8 as pipeline_int8
from compressor.pipeline.provenance import read_provenance
from compressor.pipeline.speedup import MeasuredSpeedup
from exporters import inspect_onnx
from runtime.results import BenchmarkResult, LatencyMs, Speedup


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipping")
    dataset = load("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.build("digitsnet", num_classes=10, in_channels=1)
    images, _ = next(dataset.batches("train", Loader(64)))
    network.train()(images)  # batch-norm statistics of real images
    saved = checkpoint.CompressedCheckpoint(
        architecture="digitsnet",
        architecture_kwargs={"num_classes": 10, "in_channels": 1},
        preprocessing=dataset.preprocessing,
        classes=dataset.classes,
        state=network.state_dict(),
        record={"command": "compress train --arch digitsnet", "data": "digits", "seed": 3, "test_top1": 0.25},
    )
    checkpoint.save(saved, folder / "dense.pt")
    return folder


@pytest.fixture(scope="module")
def slim(folder: Path) -> Path:
    words = ("prune", folder / "dense.pt", "--method", "l1", "--budget", "macs=0.5x", "--data", "digits")
    assert compress(*words, "--epochs", 0, "--align", 8, "-o", folder / "slim.pt") == 0
    assert compress("export", folder / "slim.pt", "-o", folder / "slim.onnx", "--no-measure") == 0
    return folder / "slim.onnx"


def test_a_file_with_preprocessing_takes_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "pictures.onnx"
    assert compress("export", folder / "dense.pt", "--with-preprocessing", "--no-measure", "-o", file) == 0
    assert "trtexec" not in capsys.readouterr().out
    assert compress("verify", folder / "dense.pt", file, "--data", "digits", "--images", 8) == 0
    dataset = load("digits")
    pictures = dataset.val.images[:4].permute(0, 2, 3, 1).contiguous().numpy()  # type: ignore[attr-defined]
    model = checkpoint.rebuild(checkpoint.load(folder / "dense.pt"))
    (inputs, _) = next(dataset.batches("val", Loader(64)))
    session = runtime.Session(file)
    found = np.concatenate([session.run([picture[None]])[0] for picture in pictures])
    with torch.no_grad():
        expected = model(inputs[:4])
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_pictures_of_another_size_are_resized_in_the_file(folder: Path) -> None:
    file = folder / "large_pictures.onnx"
    words = ("export", folder / "dense.pt", "--with-preprocessing", "--image-size", "20x30", "--no-measure")
    assert compress(*words, "-o", file) == 0
    assert compress("verify", folder / "dense.pt", file, "--data", "digits", "--images", 8) == 0
    assert runtime.Session(file).onnx_session.get_inputs()[0].shape == [1, 20, 30, 1]


def test_int8_tells_what_it_costs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "int8.onnx"
    words = ("export", folder / "dense.pt", "--int8", "--data", "digits", "--calibration-images", 64)
    assert compress(*words, "--target", "tensorrt", "--with-preprocessing", "--no-measure", "-o", file) == 0
    said = capsys.readouterr()
    assert "trtexec --onnx=int8.onnx --saveEngine=int8.engine --stronglyTyped" in said.out
    (line,) = [line for line in said.err.splitlines() if "accuracy" in line]
    assert "->" in line
    assert "143 validation images" in line
    assert inspect_onnx(file).metadata["int8"] == {"calibration": "percentile", "images": 64}
    assert compress("verify", folder / "dense.pt", file) == 1
    assert "add --data" in capsys.readouterr().err
    assert compress("verify", folder / "dense.pt", file, "--data", "digits", "--images", 16) == 0


def test_an_fbs_network_becomes_int8(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, method = checkpoint.load(folder / "dense.pt"), FBS(density=0.5)
    network = method.attach(checkpoint.rebuild(dense), torch.zeros(1, 1, 8, 8))
    fbs = replace(dense, method="fbs", method_settings=method.settings(), density=0.5, state=network.state_dict())
    checkpoint.save(fbs, folder / "fbs.pt")
    file = folder / "fbs_int8.onnx"
    words = ("export", folder / "fbs.pt", "--int8", "--data", "digits", "--calibration-images", 64)
    assert compress(*words, "--no-measure", "-o", file) == 0
    said = capsys.readouterr().err
    assert "FBS layers" in said
    (line,) = [line for line in said.splitlines() if "int8: accuracy" in line]
    assert "143 validation images" in line
    report = inspect_onnx(file)
    assert {node.method for node in report.nodes if node.op == "compress.FBSConvInt8"} == {"fbs+int8"}
    model = onnx.load(file)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    predictors = [types[node.input[5]] for node in model.graph.node if node.op_type == "FBSConvInt8"]
    assert predictors[0] == onnx.TensorProto.FLOAT, "of one input channel: steps would take as much"
    assert set(predictors[1:]) == {onnx.TensorProto.INT8}
    assert compress("verify", folder / "fbs.pt", file, "--data", "digits", "--images", 16) == 0


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, "SLOWER: keep float32"), (2.0, "faster")])
def test_int8_that_is_slower_is_said(ratio: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(files: list[Path], **options: object) -> list[BenchmarkResult]:
        return [
            BenchmarkResult(
                *(str(file), file.name, "cpu", None, 1, 1, 9, 3, LatencyMs(1.0, 1.0, 1.0), 1, 1, 1, 1, None, None, ()),
                Speedup(factor, factor, factor),
            )
            for file, factor in zip(files, (1.0, ratio), strict=True)
        ]

    monkeypatch.setattr(pipeline_int8, "benchmark", measured)
    line = pipeline_int8.measure_int8_speed(Path("float.onnx"), Path("int8.onnx"), batch=1)
    assert f"{ratio:.2f}x float32's speed here" in line
    assert verdict in line


def test_for_tensorrt_it_is_said_whose_speed_was_measured(
    folder: Path, slim: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = MeasuredSpeedup(1.5, 1.4, 1.6, 3.0, 2.0, None)
    monkeypatch.setattr(pipeline_export, "measure_speedup", lambda *_: measured)
    for target, measure, said in (("tensorrt", True, 1), ("tensorrt", False, 0), ("onnx", True, 0)):
        words = ("export", folder / "slim.pt", "--target", target, "-o", folder / "speed.onnx")
        assert compress(*words, "--measure" if measure else "--no-measure") == 0
        lines = capsys.readouterr().err.splitlines()
        assert sum("1.50x the dense network's speed here" in line for line in lines) == measure
        assert sum("on this machine's CPU, not TensorRT's" in line for line in lines) == said
        if said:
            assert "not TensorRT's" in lines[next(i for i, line in enumerate(lines) if "1.50x" in line) + 1]


def test_the_plan_is_read_back_out_of_the_file(folder: Path, slim: Path) -> None:
    assert compress("inspect", slim, "--plan", folder / "read.json") == 0
    assert json.loads((folder / "read.json").read_text()) == json.loads((folder / "slim.plan.json").read_text())
    words = ("prune", folder / "dense.pt", "--method", "l1", "--plan", folder / "read.json", "--data", "digits")
    assert compress(*words, "--epochs", 0, "-o", folder / "again.pt") == 0
    first, second = (checkpoint.load(folder / name).plan for name in ("slim.pt", "again.pt"))
    assert first == second


def test_how_it_was_made_is_read_back_too(folder: Path, slim: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_provenance(slim)
    assert found.method == "l1"
    assert found.architecture == {"name": "digitsnet", "kwargs": {"num_classes": 10, "in_channels": 1}}
    assert len(found.plans) == 1
    assert found.command is not None
    assert found.training is not None
    assert found.training["data"] == "digits"
    assert compress("inspect", slim) == 0
    said = capsys.readouterr().out
    assert "plan: 1 cut; --plan FILE writes it" in said
    assert compress("export", folder / "dense.pt", "-o", folder / "plain.onnx", "--no-measure") == 0
    assert compress("inspect", folder / "plain.onnx", "--plan", folder / "none.json") == 1
    assert "no channels were removed" in capsys.readouterr().err
    assert not (folder / "none.json").exists()


def test_the_digest_of_the_report_goes_into_the_file(folder: Path, slim: Path) -> None:
    before = inspect_onnx(slim)
    report = folder / "report.json"
    assert compress("verify", folder / "slim.pt", slim, "--data", "digits", "--images", 8, "--json", report) == 0
    after = inspect_onnx(slim)
    assert after.metadata["verify"]["sha256"] == hashlib.sha256(report.read_bytes()).hexdigest()  # type: ignore[index]
    assert {key: value for key, value in after.metadata.items() if key != "verify"} == before.metadata
    assert after.nodes == before.nodes
    inputs = {row["inputs"].split()[0] for row in json.loads(report.read_text())["comparisons"]}
    assert {"validation", "extremes", "zeros", "constant", "large"} <= inputs


def test_a_report_that_failed_is_not_noted(folder: Path, slim: Path) -> None:
    bytes_before = slim.read_bytes()
    words = ("verify", folder / "dense.pt", slim, "--data", "digits", "--images", 8, "--json", folder / "bad.json")
    assert compress(*words) == 1
    assert slim.read_bytes() == bytes_before


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("dense.pt", "--int8"), "add --data"),
        (("digitsnet", "--untrained", "--int8", "--data", "digits"), "untrained"),
        (("digitsnet", "--untrained", "--with-preprocessing"), "no preprocessing"),
        (("dense.pt", "--image-size", "20x20"), "--with-preprocessing"),
        (("dense.pt", "--int8", "--data", "digits", "--calibration", "magic"), "min-max, percentile, entropy"),
        (("dense.pt", "--opset", "17"), "18 to 26"),
    ],
)
def test_what_cannot_be_shipped(
    folder: Path, tmp_path: Path, words: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [str(folder / word) if word.endswith(".pt") else word for word in words]
    assert compress("export", *typed, "--no-measure", "-o", tmp_path / "no.onnx") == 1
    assert hint in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["20", "0x20", "ax3"])
def test_a_size_that_is_none_is_wrong_usage(folder: Path, size: str) -> None:
    assert compress("export", folder / "dense.pt", "--with-preprocessing", "--image-size", size) == 2
