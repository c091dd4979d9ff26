"""A corpus of files that cannot be used, made here: each ends in one line that names it, exit 1, nothing written."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import compress
from onnx import numpy_helper

from compressor import checkpoint
from compressor.data import Preprocessing


def model(body: str = "y = MatMul(x, w)", *, opset: int = 21, weight: float = 1.0) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g (float[1,64] x) => (float[1,600] y) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(numpy_helper.from_array(np.full((64, 600), weight, np.float32), "w"))
    return made


def not_onnx(path: Path) -> None:
    path.write_text("a recipe for pancakes\n" * 20)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(model().SerializeToString()[:-1000])


def unknown_op(path: Path) -> None:
    onnx.save(model("y = Matmull(x, w)"), path)


def unknown_domain(path: Path) -> None:
    made = model("y = acme.MatMul(x, w)")
    made.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    onnx.save(made, path)


def wrong_opset(path: Path) -> None:
    onnx.save(model(opset=99), path)


def without_external_data(path: Path) -> None:
    onnx.save(model(), path, save_as_external_data=True, location="weights.bin")
    path.with_name("weights.bin").unlink()


def nan_weights(path: Path) -> None:
    onnx.save(model(weight=float("nan")), path)


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"layers": [1, 2, 3]}))


ONNX_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "not ONNX": (not_onnx, "not an ONNX"),
    "empty": (empty, "not an ONNX"),
    "truncated": (truncated, "cut off"),
    "unknown op": (unknown_op, "Matmull"),
    "unknown domain": (unknown_domain, "acme.MatMul"),
    "wrong opset": (wrong_opset, "opset 99"),
    "missing external data": (without_external_data, "weights.bin"),
    "NaN weights": (nan_weights, "NaN"),
    "a pickle": (a_pickle, "not an ONNX"),
}


def saved(path: Path) -> None:
    weights = {"weight": torch.ones(2, 2)}
    about = Preprocessing((0.5,), (0.5,), (1, 8, 8))
    checkpoint.save(checkpoint.CompressedCheckpoint("digitsnet", {"num_classes": 10}, about, (), weights), path)


def changed(path: Path, **values: object) -> None:
    saved(path)
    entries = torch.load(path, weights_only=True)
    torch.save({**entries, **values}, path)


def cut_checkpoint(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:-500])


class Trap:
    """Would run code when it is opened."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (Path("sprung"),))


def a_trap(path: Path) -> None:
    torch.save({"format": "compressor", "version": 1, "state": Trap()}, path)


CHECKPOINTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "not a checkpoint": (not_onnx, "not a complete checkpoint"),
    "empty": (empty, "not a complete checkpoint"),
    "a bare pickle": (a_pickle, "not a complete checkpoint"),
    "a pickle that runs code": (a_trap, "would run code"),
    "cut short": (cut_checkpoint, "cut short"),
    "another version": (lambda path: changed(path, version=77), "format version 77"),
    "another format": (lambda path: changed(path, format="other"), "is not a checkpoint"),
    "NaN weights": (lambda path: changed(path, state={"weight": torch.full((2,), float("nan"))}), "not finite"),
    "other weights": (saved, "do not fit"),
}


def is_refused(
    words: tuple[object, ...], file: Path, hint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert compress(*words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, "one line, and nothing said before it"
    assert lines[0].startswith("compress: ")
    assert hint in lines[0]
    assert lines[0].count(file.name) == 1
    for foreign in ("Traceback", "unexpected", "ONNXRuntimeError", "Error:"):
        assert foreign not in lines[0]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "nothing written, nothing changed"


# How fast a network is does not depend on its weights.
@pytest.mark.parametrize(
    ("name", "command"),
    [
        (name, command)
        for name in ONNX_FILES
        for command in ("inspect", "verify", "bench")
        if (name, command) != ("NaN weights", "bench")
    ],
)
def test_a_bad_onnx_file_is_one_line(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, hint = ONNX_FILES[name]
    file = tmp_path / "bad.onnx"
    make(file)
    words = {"inspect": ("inspect", file), "bench": ("bench", file, "--threads", 1)}
    words["verify"] = ("verify", "digitsnet", file, "--untrained")
    is_refused(words[command], file, hint, tmp_path, capsys)


@pytest.mark.parametrize("command", ["export", "verify", "inspect"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_bad_checkpoint_is_one_line(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, hint = CHECKPOINTS[name]
    file = tmp_path / "bad.pt"
    make(file)
    onnx.save(model(), tmp_path / "good.onnx")
    words = {"inspect": ("inspect", file), "export": ("export", file, "-o", tmp_path / "out.onnx")}
    words["verify"] = ("verify", file, tmp_path / "good.onnx")
    if name == "other weights":
        capsys.readouterr()
        assert compress(*words[command]) == 1
        assert hint in capsys.readouterr().err
        return
    is_refused(words[command], file, hint, tmp_path, capsys)
    assert not Path("sprung").exists()


def test_a_provider_that_is_not_here_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    onnx.save(model(), tmp_path / "good.onnx")
    for provider, name in (("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")):
        assert compress("bench", tmp_path / "good.onnx", "--provider", provider) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line
        assert "install onnxruntime-gpu" in line
