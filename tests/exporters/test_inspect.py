import json
import subprocess
import sys

import fbs_reference as reference
import numpy as np
import onnx
import pytest

from exporters import ExportError, inspect_onnx
from exporters.inspect import inspect_model
from exporters.metadata import write_metadata


def dense():
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[batch,4,9,7] x) => (float[batch,5] y) {'
        " c = Conv<strides=[2,1], group=2>(x, w) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p)"
        " y = Gemm<transB=1>(f, v, b) }"
    )
    shapes = {"w": (6, 2, 3, 3), "v": (5, 6), "b": (5,)}
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()
    )
    return made


def packed(winners=6, live=5):
    rng = np.random.default_rng(0)
    shapes = {"W": (12, 8, 3, 3), "B": (12,), "A": (8, 12), "R": (12,)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    attributes = reference.fbs_attributes(winners=winners, strides=[2, 2])
    made = reference.one_node_model("FBSConv", (7, 5, live), None, constants, attributes, batch="batch")
    dims = made.graph.output[0].type.tensor_type.shape.dim
    dims[1].dim_value, dims[2].dim_value = 4, 3
    return made


def test_dense_nodes_are_counted():
    report = inspect_model(dense(), "m.onnx")
    by_op = {node.op: node for node in report.nodes}
    assert by_op["Conv"].macs == 6 * 2 * 9 * (4 * 5)
    assert (by_op["Conv"].channels_in, by_op["Conv"].channels_out, by_op["Conv"].density) == (4, 6, None)
    assert by_op["Gemm"].macs == 5 * 6
    assert by_op["Gemm"].parameters == 5 * 6 + 5
    assert by_op["Relu"].macs == 0
    assert report.macs == 6 * 2 * 9 * 20 + 30
    assert report.parameters == 6 * 2 * 9 + 35
    assert report.weight_bytes == 4 * report.parameters


def test_fbs_layer_is_counted_at_its_winners_and_live_inputs():
    (node,) = inspect_model(packed(), "m.onnx").nodes
    assert node.macs == 6 * 5 * 9 * 12 + 5 * 6 + 12 * 12
    assert (node.op, node.channels_in, node.channels_out, node.density) == ("compress.FBSConv", 5, 6, 0.5)
    assert node.parameters == 12 * 8 * 9 + 12 + 8 * 12 + 12


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("names", ["W", "WA"])
def test_bytes_count_as_the_weights_they_stand_for_and_steps_as_nothing(names, fused):
    rng = np.random.default_rng(0)
    shapes = {"W": (12, 8, 3, 3), "B": (12,), "A": (8, 12), "R": (12,)}
    shapes |= {"V": (12, 1, 3, 3), "S": (12,)} if fused else {}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {name: rng.integers(-127, 128, shapes[name]).astype(np.int8) for name in names} | dict.fromkeys("DEU")
    constants |= {step: np.ones(12, np.float32) for step in "PQ"[: len(names)]}
    window = {f"depthwise_{name}": value for name, value in reference.depthwise_attributes().items()}
    attributes = reference.fbs_attributes(winners=6) | (window if fused else {})
    op = "FBSConvDepthwise" if fused else "FBSConv"
    made = reference.one_node_model(op, (7, 5, 5), None, constants, attributes, batch="batch")
    (node,) = inspect_model(made, "m.onnx").nodes
    filters = 12 * 9 + 12 if fused else 0
    assert node.parameters == 12 * 8 * 9 + 12 + 8 * 12 + 12 + filters
    weights = (12 * 8 * 9 if "W" in names else 0) + (8 * 12 if "A" in names else 0)
    assert node.weight_bytes == 4 * node.parameters - 3 * weights + 4 * 12 * len(names)
    assert node.method == "fbs+int8"


def test_a_depthwise_layer_is_counted_at_its_live_inputs():
    rng = np.random.default_rng(0)
    constants = {"W": rng.normal(size=(8, 1, 3, 3)).astype(np.float32), "B": np.zeros(8, np.float32)}
    window = {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "lower": 0.0, "upper": 6.0}
    made = reference.one_node_model("DepthwiseConv", (7, 5, 3), None, constants, window | {"channels": 8}, batch=1)
    dims = made.graph.output[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, 7, 5, 3), strict=True):
        dim.dim_value = size
    (node,) = inspect_model(made, "m.onnx").nodes
    assert node.macs == 3 * 9 * 7 * 5
    assert (node.op, node.channels_in, node.channels_out) == ("compress.DepthwiseConv", 3, 3)
    assert node.parameters == 8 * 9 + 8


def test_a_fused_pair_is_counted_as_both():
    rng = np.random.default_rng(0)
    shapes = {"W": (12, 8, 3, 3), "B": (12,), "A": (8, 12), "R": (12,), "V": (12, 1, 5, 3), "S": (12,)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    behind = reference.depthwise_attributes(strides=[2, 1])
    attributes = reference.fbs_attributes(winners=6, strides=[2, 2])
    attributes |= {f"depthwise_{name}": value for name, value in behind.items()}
    made = reference.one_node_model("FBSConvDepthwise", (7, 5, 5), None, constants, attributes, batch="batch")
    dims = made.graph.output[0].type.tensor_type.shape.dim
    dims[1].dim_value, dims[2].dim_value = 1, 3
    (node,) = inspect_model(made, "m.onnx").nodes
    assert node.macs == 6 * 5 * 9 * 12 + 5 * 6 + 12 * 12 + 6 * 15 * 3
    assert (node.op, node.channels_in, node.channels_out) == ("compress.FBSConvDepthwise", 5, 6)
    assert (node.density, node.method) == (0.5, "fbs")
    assert node.parameters == 12 * 8 * 9 + 12 + 8 * 12 + 12 + 12 * 15 + 12
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    (node,) = inspect_model(made, "m.onnx").nodes
    assert node.macs is None


def test_a_fused_pair_on_bytes_is_counted_as_that_on_floats():
    rng = np.random.default_rng(0)
    shapes = {"W": (12, 8, 3, 3), "S": (12,), "B": (12,), "A": (8, 12), "R": (12,)}
    shapes |= {"V": (12, 1, 5, 3), "G": (12,), "F": (12,), "D": (), "E": (8,), "Q": (12,)}
    types = dict.fromkeys("WAV", np.int8) | {"E": np.int32}
    constants = {
        name: rng.integers(1, 100, size=shape).astype(types.get(name, np.float32)) for name, shape in shapes.items()
    }
    constants["D"] = None
    behind = reference.depthwise_attributes(strides=[2, 1])
    attributes = reference.fbs_attributes(winners=6, strides=[2, 2])
    attributes |= {f"depthwise_{name}": value for name, value in behind.items()}
    attributes |= {f"{name}_step": 0.5 for name in ("x", "between", "y")}
    attributes |= {f"{name}_zero": 3 for name in ("x", "between", "y")}
    made = reference.one_node_model("FBSConvDepthwiseInt8", (7, 5, 5), None, constants, attributes, batch="batch")
    dims = made.graph.output[0].type.tensor_type.shape.dim
    dims[1].dim_value, dims[2].dim_value = 1, 3
    (node,) = inspect_model(made, "m.onnx").nodes
    assert node.macs == 6 * 5 * 9 * 12 + 5 * 6 + 12 * 12 + 6 * 15 * 3
    assert (node.op, node.channels_in, node.channels_out) == ("compress.FBSConvDepthwiseInt8", 5, 6)
    assert (node.density, node.method) == (0.5, "fbs+int8")
    weights = 12 * 8 * 9 + 8 * 12 + 12 * 15
    assert node.parameters == weights + 3 * 12 + 8, "B, R, F and E; no steps"
    assert node.weight_bytes == weights + 4 * (3 * 12 + 8 + 3 * 12)


def test_file_report_holds_metadata_and_turns_into_json(tmp_path):
    made = dense()
    write_metadata(made, {"method": "l1", "density": 0.5, "preprocessing": {"mean": [0.5]}, "accuracy": None})
    onnx.save(made, tmp_path / "m.onnx")
    report = inspect_onnx(tmp_path / "m.onnx")
    assert report.metadata == {"method": "l1", "density": 0.5, "preprocessing": {"mean": [0.5]}}
    assert report.file_bytes == (tmp_path / "m.onnx").stat().st_size
    assert json.loads(json.dumps(report.to_json()))["nodes"][0]["op"] == "Conv"


def test_unknown_plane_is_said_not_guessed():
    made = dense()
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    report = inspect_model(made, "m.onnx")
    assert report.nodes[0].macs is None
    assert report.macs is None


def test_damaged_file_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"PK")
    with pytest.raises(ExportError, match="not an ONNX"):
        inspect_onnx(tmp_path / "m.onnx")


def test_inspecting_needs_no_torch():
    code = (
        "import sys, exporters, exporters.inspect\n"
        "heavy = {'torch', 'onnx_graphsurgeon', 'onnxscript', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
