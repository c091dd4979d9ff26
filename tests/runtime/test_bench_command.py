"""`compress bench` prints one row per result, writes the JSON, and refuses wrong usage before it measures."""

import json
from pathlib import Path

import onnx
import pytest
import typer
from onnx import TensorProto, helper
from typer.testing import CliRunner

from compressor.cli.bench import bench
from runtime.results import BenchmarkError, load_report

QUICK = ["--runs", "2", "--rounds", "2", "--min-time", "0"]


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(bench)
    return app


@pytest.fixture
def model_path(tmp_path: Path) -> str:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tiny", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"compress.macs": "2500000"})
    path = tmp_path / "tiny.onnx"
    onnx.save(model, path)
    return str(path)


def test_rows_and_json(command, model_path, tmp_path):
    report = tmp_path / "bench.json"
    arguments = [model_path, f"{model_path}@stock", "--threads", "1,2", "--json", str(report), *QUICK]
    finished = CliRunner().invoke(command, arguments)
    assert finished.exit_code == 0, finished.output

    header, *rows = finished.stdout.splitlines()
    assert header.split()[:3] == ["model", "isa", "threads"]
    assert len(rows) == 4
    assert rows[1].startswith("tiny.onnx (stock)  -")
    assert "2.50" in rows[0]  # million multiply-accumulates
    assert "1.00x (1.00-1.00)" in rows[0]
    assert "1 thread: round 2" in finished.stderr

    results = load_report(report).results
    assert [(result.label, result.threads) for result in results] == [
        ("tiny.onnx", 1),
        ("tiny.onnx (stock)", 1),
        ("tiny.onnx", 2),
        ("tiny.onnx (stock)", 2),
    ]
    assert set(json.loads(report.read_text())) == {"machine", "results"}


def test_a_name_with_an_at_is_a_name(command, model_path):
    path = Path(model_path).with_name("tiny@stock.onnx")
    Path(model_path).rename(path)
    finished = CliRunner().invoke(command, [str(path), *QUICK])
    assert finished.exit_code == 0, finished.output
    assert finished.stdout.splitlines()[1].startswith("tiny@stock.onnx  -")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--threads", "0"],
        ["--threads", "1;4"],
        ["--batch", "0"],
        ["--provider", "tpu"],
        ["--stock", "--isa", "generic"],
        ["--json", "missing-folder/bench.json"],
    ],
)
def test_wrong_usage_ends_with_2(command, model_path, wrong):
    assert CliRunner().invoke(command, [model_path, *wrong]).exit_code == 2


def test_a_missing_file_reaches_the_command_line_as_its_error(command):
    finished = CliRunner().invoke(command, ["missing.onnx"])
    assert isinstance(finished.exception, BenchmarkError)
    assert "missing.onnx: no such file" in str(finished.exception)
