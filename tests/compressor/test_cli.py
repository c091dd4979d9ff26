"""Bad input ends in one line that says what came and what to do, with the documented exit code."""

import errno
from pathlib import Path

import pytest
from command_line import compress

from compressor.cli.app import main
from compressor.cli.options import parse_settings
from compressor.folders import refusal

CANNOT_BE_DONE = {
    "unknown network": (("train", "--arch", "cifarnett", "--data", "digits"), "cifarnet"),
    "unknown data": (("train", "--arch", "digitsnet", "--data", "digit"), "cifar10:PATH"),
    "absent data": (("train", "--arch", "cifarnet", "--data", "cifar10:absent.npz"), "absent.npz"),
    "channels do not fit": (("train", "--arch", "torchvision:resnet18", "--data", "digits"), "3-channel"),
    "absent checkpoint": (
        ("prune", "absent.pt", "--method", "fbs", "--density", "0.5", "--data", "digits"),
        "absent.pt",
    ),
    "unknown method": (("prune", "absent.pt", "--method", "fsb", "--density", "0.5", "--data", "digits"), "fbs"),
    "no density": (("prune", "absent.pt", "--method", "fbs", "--data", "digits"), "--density"),
    "no data": (("prune", "absent.pt", "--method", "fbs", "--density", "0.5"), "--data"),
    "density too large": (("export", "digitsnet", "--untrained", "--method", "fbs", "--density", "2"), "(0, 1]"),
    "architecture without --untrained": (("export", "digitsnet"), "--untrained"),
    "unknown target": (("export", "digitsnet", "--untrained", "--target", "tflite"), "onnx"),
    "absent folder": (("export", "digitsnet", "--untrained", "-o", "absent/x.onnx"), "absent"),
    "absent file to inspect": (("inspect", "absent.onnx"), "absent.onnx"),
    "absent file to bench": (("bench", "absent.onnx"), "absent.onnx"),
}


@pytest.mark.parametrize("case", CANNOT_BE_DONE)
def test_what_cannot_be_done_is_one_line(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, hint = CANNOT_BE_DONE[case]
    assert compress(*words) == 1
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("compress: ")]) == 1
    assert hint in error[-1]
    assert "Traceback" not in "".join(error)
    assert not list(tmp_path.iterdir()), "something was left behind"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("nonsense",), "nonsense"),
        (("prun",), "prune"),
        (("train",), "--arch"),
        (("train", "--debug"), "--arch"),
        (("train", "--epochs", "many"), "--epochs"),
        (("list", "nonsense"), "methods"),
        (("bench", "x.onnx", "--threads", "none"), "--threads"),
        (("prune", "x.pt"), "--method"),
        (("prune", "--density"), "--density"),
    ],
)
def test_wrong_usage_is_one_line_and_ends_with_2(
    words: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress(*words) == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("compress: ")
    assert hint in line
    assert "--help" in line
    assert not told.out


def test_no_words_at_all_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert compress() == 2
    told = capsys.readouterr()
    assert "prune" in told.out + told.err


def test_a_file_of_noise_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in (("noise.pt", "export"), ("noise.onnx", "inspect"), ("noise.onnx", "bench")):
        path = tmp_path / name
        path.write_bytes(b"not a network" * 99)
        assert compress(command, path) == 1
        assert name in capsys.readouterr().err.splitlines()[-1]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="absent"):
        main(["inspect", str(tmp_path / "absent.onnx"), "--debug"])


@pytest.mark.parametrize("kind", ["methods", "models", "targets", "data", "isas"])
def test_every_list_has_entries(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress("list", kind) == 0
    assert capsys.readouterr().out.strip()


def test_settings_are_read_as_values() -> None:
    assert parse_settings(["form=released", "l1=1e-6", "step_epochs=2"]) == {
        "form": "released",
        "l1": 1e-6,
        "step_epochs": 2,
    }


def test_a_folder_for_json_is_looked_for_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "absent" / "report.json"
    for words in (("inspect", "x.onnx"), ("verify", "x.pt", "x.onnx"), ("bench", "x.onnx")):
        assert compress(*words, "--json", nowhere) == 2
        assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("export",), ("prune", "--method", "fbs", "--density", 0.5, "--data", "digits")])
def test_the_network_to_read_is_not_written_over(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"precious")
    assert compress(*command, path, "-o", path) == 1
    assert "name another file" in capsys.readouterr().err
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--arch", "digitsnet", "--data", "digits", "-o"),
        ("prune", "absent.pt", "--method", "fbs", "--density", 0.5, "--data", "digits", "-o"),
        ("prune", "absent.pt", "--method", "l1", "--budget", "macs=0.5x", "--data", "digits", "-o"),
        ("quantize", "absent.pt", "--bits", 8, "-o"),
        ("export", "absent.pt", "-o"),
        ("adopt", "absent.pt", "--arch", "digitsnet", "-o"),
        ("verify", "absent.pt", "absent.onnx", "--json"),
        ("bench", "absent.onnx", "--json"),
        ("inspect", "absent.onnx", "--json"),
        ("inspect", "absent.onnx", "--plan"),
        ("profile", "-o"),
    ],
    ids=lambda words: "-".join(map(str, words[:4:3])),
)
def test_a_folder_that_cannot_be_written_in_is_said_at_once(
    words: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root every folder can be written in, hence the monkeypatch."""

    def refusing(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("compressor.folders.tempfile.TemporaryFile", refusing)
    monkeypatch.setenv("COLUMNS", "400")  # one line
    assert compress(*words, tmp_path / "out.file") != 0
    said = capsys.readouterr().err
    assert "Permission denied" in said
    assert "out.file" in said
    assert "absent" not in said, "nothing was opened before"
    assert not list(tmp_path.iterdir())


def test_asking_leaves_nothing_behind(tmp_path: Path) -> None:
    assert refusal(tmp_path) is None
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file") == "Not a directory"


USELESS = """
import torch
from torch import nn

class Network(nn.Module):
    input_size = (1, 8, 8)

    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(64, 10)

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return {"pair": (logits, x), "few": logits[:, :3]}[self.kind]

def pair(num_classes):
    return Network("pair")

def few(num_classes):
    return Network("few")

def failing(num_classes):
    return Network("neither")
"""


@pytest.mark.parametrize(("factory", "hint"), [("pair", "a tuple"), ("few", "(2, 3)"), ("failing", "KeyError")])
def test_a_network_without_logits_is_refused_before_training(
    factory: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "networks.py"
    file.write_text(USELESS)
    assert compress("train", "--arch", f"{file}:{factory}", "--data", "digits", "-o", tmp_path / "model.pt") == 1
    error = capsys.readouterr().err
    assert hint in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [file]
