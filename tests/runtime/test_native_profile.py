"""Where a run's time goes: every node once, in order, the native ones with their way."""

import native_reference as reference
import numpy as np
import pytest
import typer
from native_reference import make_layer
from typer.testing import CliRunner

from compressor.cli.bench import bench
from runtime.bench import profile_nodes
from runtime.library import way_of


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    rng = np.random.default_rng(0)
    layers = [
        make_layer(rng, channels=3, outputs=96),  # every channel wins, every input is there
        make_layer(rng, channels=96, outputs=96, winners=48, strides=(8, 8)),  # many pixels share the packed weights
        make_layer(rng, channels=96, outputs=96, winners=90, pads=(0, 0, 0, 0)),  # one does not
    ]
    path = tmp_path_factory.mktemp("profile") / "ways.onnx"
    path.write_bytes(reference.chain_model(layers, (24, 24)))
    return path


def test_every_node_with_its_way(model_path):
    nodes = profile_nodes(model_path, runs=3)
    assert [(node.name, node.op, node.way) for node in nodes] == [
        ("layer0", "FBSConv", "stored"),
        ("layer1", "FBSConv", "packed"),
        ("layer2", "FBSConv", "all"),
        ("unpack", "Unpack", ""),
    ]
    assert [node.output_bytes for node in nodes][-1] == 96 * 4
    assert all(node.median_us >= 0 for node in nodes)
    assert sum(node.share for node in nodes) == pytest.approx(1)


def test_a_layer_that_lives_no_more_has_no_way(model_path):
    profile_nodes(model_path, runs=1)
    assert way_of("layer1") == ""


def test_the_command_shows_it(model_path):
    app = typer.Typer()
    app.command()(bench)
    done = CliRunner().invoke(app, [str(model_path), "--profile", "--runs", "2"])
    assert done.exit_code == 0, done.output
    rows = [line for line in done.stdout.splitlines() if "layer1" in line]
    assert len(rows) == 1
    assert "packed" in rows[0]
    assert "100.0%" in done.stdout


def test_the_command_writes_no_report_of_it(model_path, tmp_path):
    app = typer.Typer()
    app.command()(bench)
    done = CliRunner().invoke(app, [str(model_path), "--profile", "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 2
    assert "leave --json out" in " ".join(done.output.replace("│", "").split())
