"""What makes a file fit to ship: the same bytes in every process, weights beside it, both of torch's exporters."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_networks as tiny
import torch

import exporters
import exporters.opset
import runtime
from exporters import ExportError
from exporters.load import load_onnx
from exporters.rewrite import rewrite
from exporters.store import data_path
from exporters.targets import Onnx
from exporters.verify import verify

EXAMPLE = torch.zeros(1, 3, 12, 10)

IN_A_PROCESS = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny_networks as tiny, torch, exporters
network = tiny.with_fbs(tiny.settled(tiny.Chain()))
for target in ("onnx", "tensorrt"):
    path = Path(sys.argv[2]) / f"{target}.onnx"
    exporters.export(network, torch.zeros(1, 3, 12, 10), path, target=target, metadata={"b": 1, "a": {"z": 2, "y": 1}})
    print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_two_processes_write_the_same_bytes(tmp_path):
    words = [sys.executable, "-c", IN_A_PROCESS, str(Path(__file__).parent), str(tmp_path)]
    # Another order of sets than in this process.
    done = subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    network = tiny.with_fbs(tiny.settled(tiny.Chain()))
    for target, digest in zip(("onnx", "tensorrt"), done.stdout.split(), strict=True):
        path = tmp_path / f"{target}.onnx"
        path.unlink()
        metadata = {"a": {"y": 1, "z": 2}, "b": 1}
        exporters.export(network, EXAMPLE, path, target=target, metadata=metadata)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    network = tiny.settled(tiny.Chain())
    result = exporters.export(network, EXAMPLE, folder / "m.onnx", external_over_bytes=4096)
    return network, result


def test_weights_above_the_limit_lie_beside_the_file(large):
    _, result = large
    assert sorted(path.name for path in result.path.parent.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert result.file_bytes == sum(path.stat().st_size for path in result.path.parent.iterdir())
    outside = onnx.load(result.path, load_external_data=False)
    assert any(tensor.external_data for tensor in outside.graph.initializer)
    assert result.path.stat().st_size < 8192


def test_a_file_with_weights_beside_it_works_everywhere(large, tmp_path):
    network, result = large
    assert verify(network, result.path, batches=(1,)).passed
    small = exporters.export(network, EXAMPLE, tmp_path / "small.onnx")
    one, other = exporters.inspect_onnx(result.path), exporters.inspect_onnx(small.path)
    assert (one.macs, one.parameters, one.weight_bytes) == (other.macs, other.parameters, other.weight_bytes)
    values = np.ones((1, 3, 12, 10), np.float32)
    for left, right in zip(
        runtime.Session(result.path).run([values]), runtime.Session(small.path).run([values]), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_weights_beside_the_file_are_the_same_bytes_again(large, tmp_path):
    network, result = large
    again = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", external_over_bytes=4096)
    for path in (Path, data_path):
        assert path(again.path).read_bytes() == path(result.path).read_bytes()


def test_missing_weights_are_said(large, tmp_path):
    _, result = large
    alone = tmp_path / "m.onnx"
    alone.write_bytes(result.path.read_bytes())
    with pytest.raises(ExportError, match=r"missing: m\.onnx\.data; put them beside it"):
        load_onnx(alone)


@pytest.mark.filterwarnings("ignore")  # torch warns of the exporter's age
@pytest.mark.parametrize("dynamo", [True, False], ids=["torch.export", "TorchScript"])
def test_files_of_both_of_torchs_exporters_go_through_the_passes(tmp_path, dynamo):
    network = tiny.settled(tiny.Residual()).eval()
    raw = tmp_path / "raw.onnx"
    options = {"dynamo": True, "verbose": False} if dynamo else {"dynamo": False, "opset_version": 18}
    torch.onnx.export(network, (EXAMPLE,), str(raw), **options)
    path = tmp_path / "slim.onnx"
    onnx.save(rewrite(onnx.load(raw), Onnx.passes(one_sample=True), image=None), path)
    report = verify(network, path)
    assert report.passed
    ops = [node.op for node in exporters.inspect_onnx(path).nodes]
    assert "BatchNormalization" not in ops
    assert ops.count("Conv") == 6


def test_names_are_the_modules_and_tell_nothing_of_this_machine(tmp_path):
    network = tiny.settled(tiny.Residual())
    result = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", target="tensorrt")
    model = onnx.load(result.path)
    modules = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)}
    assert {node.name for node in model.graph.node if node.op_type == "Conv"} == modules
    assert {f"{name}.weight" for name in modules} <= {tensor.name for tensor in model.graph.initializer}
    assert str(tmp_path) not in str(model)
    assert str(Path.cwd()) not in str(model)


def test_a_file_stamped_with_the_default_opset_is_one_that_both_runtimes_take(tmp_path):
    from exporters.tensorrt_lint import tensorrt_table

    result = exporters.export(tiny.settled(tiny.Chain()), EXAMPLE, tmp_path / "m.onnx")
    assert result.opset == min(tensorrt_table()["newest_opset"], exporters.opset.MAX_ONNX_OPSET)
