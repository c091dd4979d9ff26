"""The tensorrt target: equal to torch, standard ops that the lint takes, one profile, a command that builds it."""

import shlex

import numpy as np
import onnx
import pytest
import tiny_networks as tiny
import torch
from torch import nn

import exporters
from exporters import ExportError
from exporters.tensorrt_lint import lint_tensorrt, tensorrt_table
from exporters.verify import verify

EXAMPLE = torch.zeros(1, 3, 12, 10)
NETWORKS = {
    "fbs chain": lambda: tiny.with_fbs(tiny.settled(tiny.Chain())),
    "fbs chain, released form": lambda: tiny.with_fbs(tiny.settled(tiny.Chain()), form="released", normalize=True),
    "fbs chain, all win": lambda: tiny.with_fbs(tiny.settled(tiny.Chain()), density=1.0),
    "fbs chain, blocks": lambda: tiny.with_fbs(tiny.settled(tiny.Chain()), winner_block=3),
    "fbs residual": lambda: tiny.with_fbs(tiny.settled(tiny.Residual())),
    "dense residual": lambda: tiny.settled(tiny.Residual()),
}
CASES = [
    ("fbs chain", 1),
    ("fbs chain", "dynamic"),
    ("fbs chain, released form", 1),
    ("fbs chain, released form", 3),
    ("fbs chain, blocks", 1),
    ("fbs chain, blocks", "dynamic"),
    ("fbs residual", 1),
    ("dense residual", 1),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorrt")
    done = {}

    def export(name, batch):
        if (name, batch) not in done:
            network = NETWORKS[name]()
            path = folder / f"{name} {batch}.onnx"
            done[name, batch] = network, exporters.export(network, EXAMPLE, path, batch=batch, target="tensorrt")
        return done[name, batch]

    return export


def by_op(path, op):
    return [node for node in onnx.load(path).graph.node if node.op_type == op]


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_file_equals_torch_and_passes_the_lint(exported, name, batch):
    network, result = exported(name, batch)
    images = {"images": np.random.default_rng(7).normal(size=(6, 3, 12, 10)).astype(np.float32)}
    assert verify(network, result.path, images, batches=(1, 3)).passed
    model = onnx.load(result.path)
    assert lint_tensorrt(model) == []
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.version for entry in model.opset_import] == [tensorrt_table()["newest_opset"]]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_one_sample_multiplies_with_the_winners_only(exported):
    macs = {}
    for name, batch in (("fbs chain", 1), ("fbs chain", "dynamic"), ("fbs chain, all win", 1)):
        _, result = exported(name, batch)
        convolutions = [node for node in exporters.inspect_onnx(result.path).nodes if node.op == "Conv"]
        macs[name, batch] = [node.macs for node in convolutions]
    first, second, third = macs["fbs chain, all win", 1]
    assert macs["fbs chain", 1] == [first // 2, second // 4, third // 4]
    assert macs["fbs chain", "dynamic"] == [first, second, third]


def test_layers_of_a_chain_hand_on_packed_planes(exported):
    _, result = exported("fbs chain", 1)
    assert len(by_op(result.path, "ScatterElements")) == 1, "spread once, before the classifier"
    _, result = exported("fbs residual", 1)
    assert len(by_op(result.path, "ScatterElements")) == 4, "the operands of two sums"


@pytest.mark.parametrize("name", ["fbs chain", "fbs residual"])
def test_no_index_is_computed_with(exported, name):
    _, result = exported(name, 1)
    shapes = onnx.shape_inference.infer_shapes(onnx.load(result.path)).graph.value_info
    int64 = {value.name for value in shapes if value.type.tensor_type.elem_type == onnx.TensorProto.INT64}
    makers = {node.op_type for node in onnx.load(result.path).graph.node if set(node.output) & int64}
    assert makers <= {"TopK", "Reshape", "ScatterElements"}


def test_the_command_is_in_the_file_with_one_profile(exported):
    _, result = exported("fbs chain", "dynamic")
    words = shlex.split(exporters.inspect_onnx(result.path).metadata["trtexec"])
    assert words[0] == "trtexec"
    assert f"--onnx={result.path.name}" in words
    assert [word for word in words if "Shapes" in word] == [
        "--minShapes=input:1x3x12x10",
        "--optShapes=input:8x3x12x10",
        "--maxShapes=input:32x3x12x10",
    ]
    _, result = exported("fbs chain", 1)
    assert "Shapes" not in exporters.inspect_onnx(result.path).metadata["trtexec"]


def test_ragged_widths_are_said(exported):
    _, ragged = exported("fbs chain", "dynamic")
    (note,) = ragged.notes
    assert "features.8 (12)" in note
    assert "--align tensorrt" in note
    _, even = exported("dense residual", 1)
    assert even.notes == ()


class Odd(nn.Module):
    """A determinant, which TensorRT's parser lacks."""

    def forward(self, x):
        return torch.linalg.det(x).relu()


def test_what_tensorrt_lacks_is_named_and_not_written(tmp_path):
    with pytest.raises(ExportError, match=r"target tensorrt does not take node 'Det' \(Det\): not an op of") as caught:
        exporters.export(Odd(), torch.zeros(1, 3, 4, 4), tmp_path / "m.onnx", target="tensorrt")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_near_ties_are_recognised_in_standard_ops_too(exported):
    network, result = exported("fbs chain", 1)
    from exporters.winners import winner_outputs

    layers = [name for name, module in network.named_modules() if hasattr(module, "saliency_weight")]
    assert list(winner_outputs(onnx.load(result.path))) == layers
