"""A checkpoint whose kernels were pruned by strides, from the command line to a running file."""

import json
import math
from pathlib import Path

import onnx
import pytest
import torch
from command_line import compress

import models
from compressor import checkpoint, data
from compressor.methods.structured_masks import patterns
from compressor.pipeline.onnx_storage import onnx_storage
from exporters.errors import ExportError

NETWORK = """
from torch import nn

def striped(num_classes=10):
    def block(before, after):
        return [nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes)]
    model = nn.Sequential(*block(1, 64), *block(64, 64), *block(64, 64), *block(64, 64), *head)
    model.input_size = (1, 8, 8)
    return model
"""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer 3: an offset per source map; layer 6: one pattern for all, per axis; layer 9: kernels."""
    folder = tmp_path_factory.mktemp("sparse")
    (folder / "striped.py").write_text(NETWORK)
    name = f"{folder / 'striped.py'}:striped"
    torch.manual_seed(0)
    model = models.build(name)
    flattened = torch.from_numpy(patterns((3, 3), 2, per_axis=False)).reshape(-1, 3, 3)
    per_axis = torch.from_numpy(patterns((3, 3), 2, per_axis=True)).reshape(-1, 3, 3)
    with torch.no_grad():
        model.get_submodule("3").weight *= flattened[torch.randint(2, (64,))]
        model.get_submodule("6").weight *= per_axis[0]
        model.get_submodule("9").weight *= (torch.rand(64, 64) < 0.5)[:, :, None, None]
    digits = data.load("digits")
    saved = checkpoint.CompressedCheckpoint(
        name, {}, digits.preprocessing, digits.classes, model.state_dict(), record={"split_seed": 0}
    )
    checkpoint.save(saved, folder / "pruned.pt")
    return folder / "pruned.pt"


def test_the_whole_road(pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, report = tmp_path / "m.onnx", tmp_path / "nodes.json"
    assert compress("export", pruned, "-o", file) == 0
    said = capsys.readouterr().err
    rows = 64 * 9 - int((checkpoint.load(pruned).state["3.weight"] == 0).all(0).sum())
    assert f"3: SparseConv, {rows} of 576 rows alive" in said
    assert "6: dense Conv, 256 of 256 rows alive, kernel 3x3 became 2x2 with dilations 2, 2" in said
    assert "9: dense Conv, 576 of 576 rows alive; every row is read by some output" in said
    assert "the dense network's speed here" in said

    assert compress("verify", pruned, file) == 0
    assert "equal" in capsys.readouterr().out
    assert compress("inspect", file, "--json", report) == 0
    nodes = {node["name"]: node for node in json.loads(report.read_text())["nodes"]}
    assert nodes["3"]["op"] == "compress.SparseConv"
    assert nodes["3"]["macs"] == 64 * rows * 64
    assert nodes["6"]["macs"] == 64 * 256 * 64
    capsys.readouterr()
    assert compress("bench", file, "--profile", "--runs", 2) == 0
    assert "SparseConv" in capsys.readouterr().out


def test_never(pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.onnx"
    assert compress("export", pruned, "-o", file, "--sparse", "never", "--no-measure") == 0
    assert "no sparse layers here" in capsys.readouterr().err
    assert compress("export", pruned, "-o", tmp_path / "n.onnx", "--sparse", "often") == 1
    assert "auto, always, never" in capsys.readouterr().err
    assert not (tmp_path / "n.onnx").exists()


@pytest.mark.parametrize("bits", [4, 5])
def test_10_storage_is_recounted_from_the_exported_file(
    pruned: Path, tmp_path: Path, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed, file, report = tmp_path / "q.pt", tmp_path / "q.onnx", tmp_path / "q.json"
    assert compress("quantize", pruned, "--bits", bits, "--per-channel", "-o", fixed) == 0
    assert compress("export", fixed, "--no-measure", "-o", file) == 0
    capsys.readouterr()
    assert compress("inspect", file, "--json", report) == 0
    shown = capsys.readouterr().out
    found = json.loads(report.read_text())["storage"]
    assert f"fixed point: {found['packed_bytes']} bytes packed" in shown
    graph = onnx.load(file).graph
    assert any(node.op_type == "SparseConv" for node in graph.node)

    told = {entry["name"]: entry for entry in checkpoint.load(fixed).record["storage"]}
    layers = {entry["name"]: entry for entry in found["layers"]}
    assert layers.keys() == told.keys() == {"0.weight", "3.weight", "6.weight", "9.weight", "14.weight"}
    for name, entry in layers.items():
        assert (entry["bits"], entry["live"], entry["steps"]) == (bits, told[name]["live"], told[name]["steps"])
        assert entry["packed_bits"] == entry["live"] * bits + 32 * entry["steps"] + entry["mask_bits"]
        # A 3x3 kernel that became a 2x2 one in the file needs no strides.
        assert entry["mask_bits"] == (0 if name == "6.weight" else told[name]["mask_bits"])
    assert told["3.weight"]["mask_bits"] == 64 * 2
    assert told["6.weight"]["mask_bits"] == 64 * 4, "rows and columns have a stride and an offset each"
    assert told["9.weight"]["mask_bits"] == 64 * 64
    held = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    biases = sum(math.prod(tensor.dims) for tensor in held if not tensor.name.endswith(".scale"))
    packed = sum(entry["packed_bits"] for entry in layers.values())
    assert found["packed_bytes"] == math.ceil((packed + 32 * biases) / 8)


def test_levels_of_unknown_width_are_said_not_guessed(pruned: Path, tmp_path: Path) -> None:
    fixed, file = tmp_path / "q.pt", tmp_path / "q.onnx"
    assert compress("quantize", pruned, "--bits", 6, "-o", fixed) == 0
    assert compress("export", fixed, "--no-measure", "-o", file) == 0
    model = onnx.load(file)
    entry = next(entry for entry in model.metadata_props if entry.key == "compress.fixed_point")
    entry.value = json.dumps({})
    onnx.save(model, file)
    with pytest.raises(
        ExportError, match=r"nothing says how many bits .* has; export the checkpoint with this version"
    ):
        onnx_storage(file)
