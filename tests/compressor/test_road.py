"""The whole road through the command line, as a user types it, on the embedded digits."""

import json
from pathlib import Path

import onnx
import pytest

from compressor.cli.app import main


def compress(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road")
    train = ("train", "--arch", "digitsnet", "--data", "digits", "--epochs", 4, "--batch-size", 64, "--precision", "32")
    assert compress(*train, "-o", folder / "dense.pt") == 0
    prune = ("prune", folder / "dense.pt", "--method", "fbs", "--density", 0.5, "--data", "digits", "--epochs", 3)
    assert compress(*prune, "--batch-size", 64, "--precision", "32", "-o", folder / "fbs.pt") == 0
    assert compress("export", folder / "dense.pt", "-o", folder / "dense.onnx") == 0
    assert compress("export", folder / "fbs.pt", "--method", "fbs", "--density", 0.5, "-o", folder / "fbs.onnx") == 0
    return folder


def test_the_file_says_what_it_is(folder: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "fbs.onnx").metadata_props}
    assert metadata["compress.method"] == "fbs"
    assert float(metadata["compress.density"]) == 0.5
    assert metadata["compress.trained"] == "true"
    assert 0.5 < float(metadata["compress.accuracy"]) <= 1.0
    assert json.loads(metadata["compress.preprocessing"])["size"] == [1, 8, 8]


@pytest.mark.parametrize("name", ["dense", "fbs"])
def test_the_file_is_the_network_on_real_images(folder: Path, name: str) -> None:
    words = ("verify", folder / f"{name}.pt", folder / f"{name}.onnx", "--data", "digits", "--images", 16)
    assert compress(*words, "--json", folder / f"{name}.json") == 0
    report = json.loads((folder / f"{name}.json").read_text())
    assert report["passed"]
    assert report["relative_error"] <= 1e-4
    assert {row["batch"] for row in report["comparisons"]} == {1}


def test_another_networks_file_is_not_equal(folder: Path) -> None:
    assert compress("verify", folder / "dense.pt", folder / "fbs.onnx") == 1


def test_inspect_counts_what_the_layers_skip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("dense.onnx", "fbs.onnx", "dense.pt", "fbs.pt"):
        assert compress("inspect", folder / file, "--json", folder / "inspect.json") == 0
    assert "classifier" in capsys.readouterr().out
    macs = {}
    for file in ("fbs.onnx", "fbs.pt"):
        assert compress("inspect", folder / file, "--json", folder / "inspect.json") == 0
        report = json.loads((folder / "inspect.json").read_text())
        macs[file] = report.get("macs") or report["cost"]["macs"]
    assert macs["fbs.onnx"] == pytest.approx(macs["fbs.pt"], rel=0.01)


def test_bench_lays_the_files_side_by_side(folder: Path) -> None:
    words = ("bench", folder / "dense.onnx", folder / "fbs.onnx", f"{folder / 'fbs.onnx'}@stock")
    short = ("--runs", 1, "--rounds", 2, "--min-time", 0)
    assert compress(*words, *short, "--json", folder / "bench.json") == 0
    report = json.loads((folder / "bench.json").read_text())
    assert len(report["results"]) == 3
    assert report["results"][2]["isa"] is None


def test_a_dense_checkpoint_needs_data_to_become_fbs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "nothing.onnx"
    assert compress("export", folder / "dense.pt", "--method", "fbs", "--density", 0.5, "-o", output) == 1
    assert "--data" in capsys.readouterr().err
    assert not output.exists()


def test_an_untrained_architecture_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "untrained.onnx"
    words = ("export", "digitsnet", "--untrained", "--method", "fbs", "--density", 0.25, "-o", output)
    assert compress(*words) == 0
    assert "untrained" in capsys.readouterr().err
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert metadata["compress.trained"] == "false"
