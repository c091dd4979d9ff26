"""What cannot be read is refused in one line that names it and says what to do; nothing is written."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import compress
from onnx import helper, numpy_helper

from compressor import checkpoint

SIZE = "float[N,3,8,8]"
PAIR = "float[2,3,8,8]"
CONSTANTS = {
    "k": np.array([1], np.int64),
    "p": np.arange(128, dtype=np.float32).reshape(2, 1, 8, 8),
    "w4": np.ones((4, 4, 3, 3), np.float32),
    "s3": np.ones(3, np.float32),
}


def made(
    body: str = "c = Conv(x, w) g = GlobalAveragePool(c) y = Flatten(g)",
    *,
    size: str = SIZE,
    opset: int = 21,
    inputs: str = "",
    weight: float = 1.0,
) -> onnx.ModelProto:
    domains = f'"": {opset}, "acme": 1'
    text = f"<ir_version: 10, opset_import: [{domains}]> g ({size} x{inputs}) => (float[N,M] y) {{ {body} }}"
    model = onnx.parser.parse_model(text)
    weights = {**CONSTANTS, "w": np.full((4, 3, 3, 3), weight, np.float32)}
    used = {name for node in model.graph.node for name in node.input}
    made_there = {name for node in model.graph.node for name in node.output}
    for name in sorted(used & set(weights) - made_there):
        model.graph.initializer.append(numpy_helper.from_array(weights[name], name))
    return model


def stored(model: onnx.ModelProto) -> Callable[[Path], None]:
    return lambda path: onnx.save(model, path)


def cut_short(path: Path) -> None:
    onnx.save(made(), path)
    path.write_bytes(path.read_bytes()[:-60])


def without_weights(path: Path) -> None:
    onnx.save(made(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    path.with_name("weights.bin").unlink()


def with_two_outputs() -> onnx.ModelProto:
    model = made("c = Conv(x, w) g = GlobalAveragePool(c) y = Flatten(g)")
    model.graph.output.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 4, 6, 6]))
    return model


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (cut_short, "cut off"),
    "without its weights": (without_weights, "weights.bin"),
    "NaN": (stored(made(weight=float("nan"))), "NaN"),
    "an op of nobody": (stored(made("y = acme.Blur(x)")), "acme.Blur"),
    "an op that cannot be read": (
        stored(made("v, i = TopK(x, k) y = Flatten(v)")),
        "(TopK) depends on the image; ops that can be read so: Abs, Add,",
    ),
    "height open": (stored(made(size="float[N,3,H,W]")), "--image-size HxW"),
    "channels open": (stored(made(size="float[N,C,8,8]")), "number of channels open"),
    "no image": (stored(made("y = Relu(x)", size="float[N,3]")), "has 2 dimensions"),
    "bytes": (stored(made("f = Cast<to=1>(x) y = Conv(f, w)", size="uint8[N,3,8,8]")), "is uint8"),
    "two images": (stored(made("s = Add(x, z) y = Conv(s, w)", inputs=f", {SIZE} z")), "2 inputs (x, z)"),
    "two answers": (stored(with_two_outputs()), "2 outputs (y, c)"),
    "weights made on the way": (stored(made("k = Relu(x) y = Conv(x, k)")), "'k' that depends on the image"),
    "its batch in it": (
        stored(made("t = Concat<axis=1>(x, p) c = Conv(t, w4) g = GlobalAveragePool(c) y = Flatten(g)", size=PAIR)),
        "right for 2 images at a time only; export it with a dynamic batch",
    ),
    "training mode": (
        stored(made("n, m, v = BatchNormalization<training_mode=1>(x, s3, s3, s3, s3) y = Conv(n, w)")),
        "exported in training mode",
    ),
}


@pytest.mark.parametrize("command", ["adopt", "prune"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read_is_one_line(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, hint = FILES[name]
    file = tmp_path / "bad.onnx"
    make(file)
    np.save(tmp_path / "images.npy", np.zeros((9, 8, 8, 3), np.uint8))
    before = set(tmp_path.iterdir())
    words: tuple[object, ...] = ("--mean", "0,0,0", "--std", "1,1,1", "-o", tmp_path / "m.pt")
    if command == "prune":
        words = ("--method", "l1", "--budget", "macs=0.5x", "--data", f"images:{tmp_path / 'images.npy'}", *words)
    assert compress(command, file, *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert hint in line
    assert line.count("bad.onnx") == 1
    assert "unexpected" not in line
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ((), "give --mean and --std"),
        (("--mean", "0", "--std", "1"), "takes 3 channels"),
        (("--mean", "0,0,0", "--std", "0,1,1"), "above 0"),
        (("--mean", "0,0,0", "--std", "1,1,1", "--image-size", "16x16"), "fixed at 8x8"),
        (("--mean", "0,0,0", "--std", "1,1,1", "--arch", "cifarnet"), "brings its own network"),
        (("--mean", "0,0,0", "--std", "1,1,1", "--data", "digits"), "has 10 classes"),
    ],
)
def test_arguments_that_do_not_fit(
    words: tuple[str, ...], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(made(), tmp_path / "net.onnx")
    assert compress("adopt", tmp_path / "net.onnx", *words, "-o", tmp_path / "m.pt") == 1
    assert hint in capsys.readouterr().err
    assert not (tmp_path / "m.pt").exists()


def test_an_open_size_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(made(size="float[N,3,H,W]"), tmp_path / "net.onnx")
    words = ("--mean", "0,0,0", "--std", "1,1,1", "--image-size", "9x7", "-o", tmp_path / "m.pt")
    assert compress("adopt", tmp_path / "net.onnx", *words) == 0
    assert "inputs 3x9x7" in capsys.readouterr().out


def test_elsewhere_an_onnx_file_is_sent_to_adopt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(made(), tmp_path / "net.onnx")
    assert compress("quantize", tmp_path / "net.onnx", "--bits", 8, "-o", tmp_path / "q.pt") == 1
    assert "compress adopt" in capsys.readouterr().err


def test_a_checkpoint_says_itself_what_its_inputs_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(made(), tmp_path / "net.onnx")
    assert compress("adopt", tmp_path / "net.onnx", "--mean", "0,0,0", "--std", "1,1,1", "-o", tmp_path / "m.pt") == 0
    np.save(tmp_path / "images.npy", np.zeros((9, 8, 8, 3), np.uint8))
    words = ("--method", "l1", "--budget", "macs=0.5x", "--data", f"images:{tmp_path / 'images.npy'}")
    assert compress("prune", tmp_path / "m.pt", *words, "--mean", "0,0,0", "-o", tmp_path / "s.pt") == 1
    assert "leave --mean" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "unknown layer", "unknown function", "other settings"])
def test_a_damaged_description_is_one_line(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(made(), tmp_path / "net.onnx")
    assert compress("adopt", tmp_path / "net.onnx", "--mean", "0,0,0", "--std", "1,1,1", "-o", tmp_path / "m.pt") == 0
    saved = checkpoint.load(tmp_path / "m.pt")
    program = json.loads(json.dumps(saved.architecture_kwargs["program"]))
    conv, *_, flatten = program["steps"]
    if damage == "missing":
        del program["output"]
    elif damage == "unknown layer":
        conv["kind"] = "os.system"
    elif damage == "unknown function":
        flatten["kind"] = "eval"
    else:
        conv["settings"]["colour"] = "red"
    checkpoint.save(dataclasses.replace(saved, architecture_kwargs={"program": program}), tmp_path / "bad.pt")
    capsys.readouterr()
    assert compress("export", tmp_path / "bad.pt", "-o", tmp_path / "out.onnx") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--debug" not in line, "it is no defect of ours"
    assert not (tmp_path / "out.onnx").exists()
