"""FBS layers in int8: the same in stock ONNX Runtime and on the native kernels, close to the float network."""

import re
from collections import Counter

import numpy as np
import onnx
import pytest
import tiny_networks as tiny
import torch
from onnx import TensorProto, helper, numpy_helper

import exporters
import runtime
from exporters import ExportError, int8_plan, opset
from exporters.capture import capture
from exporters.image_input import ImageInput, torch_image_input
from exporters.int8 import CALIBRATIONS, Int8Settings
from exporters.int8_fbs import has_fbs_layers, quantize_fbs
from exporters.nodes import attributes_of
from exporters.prepend import prepend_to_file
from exporters.rewrite import rewrite
from exporters.targets.onnx import Onnx
from exporters.verify import verify
from exporters.winners import winner_outputs, with_winner_outputs

SHAPE = (3, 12, 10)
EXAMPLE = torch.zeros(1, *SHAPE)
IMAGES = np.random.default_rng(0).normal(size=(32, *SHAPE)).astype(np.float32)
SETTINGS = Int8Settings("min-max", IMAGES)
NETWORKS = {
    "chain": tiny.Chain,
    "residual": tiny.Residual,
    "inverted": tiny.Inverted,
    "separable": tiny.Separable,
    "forked": tiny.Forked,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Networks with FBS layers, as float and as int8 file, of any batch, and what the export of the latter said."""
    folder = tmp_path_factory.mktemp("int8_fbs")
    made = {"exported": {}}
    for name, network in NETWORKS.items():
        model = network_with_fbs(network)
        paths = {kind: folder / f"{name}.{kind}.onnx" for kind in ("float", "int8")}
        exporters.export(model, EXAMPLE, paths["float"], batch="dynamic")
        made["exported"][name] = exporters.export(model, EXAMPLE, paths["int8"], batch="dynamic", int8=SETTINGS)
        made[name] = model, paths
    return made


def network_with_fbs(network):
    return tiny.with_fbs(tiny.settled(network()), spread=1.0).eval()


def answers(path, isa=None, stock=False):
    return runtime.Session(path, threads=1, isa=isa, stock=stock).run([IMAGES])[0]


@pytest.mark.parametrize("stock", [False, True], ids=["native", "stock"])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_close_to_the_float_networks(files, name, stock):
    model, made = files[name]
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    errors = np.abs(answers(made["int8"], stock=stock) - expected).max(axis=1)
    # Most samples choose the same winners; 8 bits in several layers then.
    assert np.median(errors) <= 0.05 * np.abs(expected).max()
    assert errors.max() > 0, "something was rounded"


def given(model, node):
    """What a node's constants hold, by the op's names; None for those it lacks."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    op = opset.OPS[node.op_type]
    return dict.fromkeys((tensor.name for tensor in op.inputs), None) | {
        name: held.get(tensor) for name, tensor in op.given(node.input).items()
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inverted", {"stem.0": "", "block1.0": "V", "block1.6": "E", "block2.0": "V", "block2.6": "E"}),
        ("separable", {"features.0": "V", "features.6": "VE", "features.12": "E"}),
    ],
)
def test_an_fbs_layer_and_the_depthwise_convolution_behind_it_are_one_node_on_bytes(files, name, expected):
    _, made = files[name]
    before, model = onnx.load(made["float"]), onnx.load(made["int8"])
    onnx.checker.check_model(model, full_check=True)
    ops = Counter(node.op_type for node in model.graph.node)
    assert {"Conv", "DepthwiseConv", "FBSConv", "FBSConvDepthwise"}.isdisjoint(ops)
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 1, "of the input, and before the average"
    floats = {node.name: (before, node) for node in before.graph.node}
    types = {value.name: value.type.tensor_type for value in model.graph.value_info}
    layers = {node.name: node for node in model.graph.node if opset.OPS.get(node.op_type) in opset.FBS_LAYERS}
    assert list(layers) == list(expected)
    for layer, node in layers.items():
        found, of_floats = given(model, node), given(*floats[layer])
        attributes = attributes_of(node)
        assert node.op_type == ("FBSConvDepthwiseInt8" if "V" in expected[layer] else "FBSConvInt8")
        assert (found["E"] is not None) == ("E" in expected[layer])
        for weight, step, axes in (("W", "S", (1, 2, 3)), ("A", "Q", 0), ("V", "G", (1, 2, 3))):
            if weight in found:
                assert found[weight].dtype == np.int8
                np.testing.assert_array_equal(np.abs(found[weight].astype(int)).max(axis=axes), 127)
                shape = (-1, 1, 1, 1) if axes else (-1,)
                error = np.abs(found[weight] * found[step].reshape(shape) - of_floats[weight]).max(axis=axes)
                assert (error <= 0.5001 * found[step]).all()
        if "E" in expected[layer]:
            assert found["E"].dtype == np.int32
            np.testing.assert_array_equal(found["E"], np.rint(of_floats["E"] / np.float32(attributes["x_step"])))
        if "V" in expected[layer]:
            np.testing.assert_array_equal(found["F"], of_floats["S"])
            assert attributes["between_zero"] == 0, "behind a ReLU6"
            assert attributes["between_step"] <= np.float32(6 / 255)
        assert types[node.output[0]].elem_type == TensorProto.UINT8
        shape = next(value for value in before.graph.value_info if value.name == layer).type.tensor_type.shape
        assert types[node.output[0]].shape == shape
    reports = [exporters.inspect_onnx(made[kind]) for kind in ("float", "int8")]
    assert reports[0].macs == reports[1].macs
    assert reports[0].parameters == reports[1].parameters
    assert {node.method for node in reports[1].nodes if "FBSConv" in node.op} == {"fbs+int8"}
    (note,) = files["exported"][name].notes
    assert note == f"int8: {len(expected)} FBS layers, 2 depthwise; head (Linear) stay float32"


@pytest.mark.parametrize("version", [18, opset.ONNX_OPSET])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["inverted", "separable", "forked"])
def test_every_batch_and_opset_gives_the_same(files, tmp_path, name, batch, version):
    model, made = files[name]
    exporters.export(model, EXAMPLE, tmp_path / "m.onnx", batch=batch, opset=version, int8=SETTINGS)
    session = runtime.Session(tmp_path / "m.onnx", threads=1, stock=True)
    found = np.concatenate([session.run([IMAGES[start : start + batch]])[0] for start in range(0, 6, batch)])
    expected = answers(made["int8"], stock=True)[:6]
    assert np.median(np.abs(found - expected).max(axis=1)) <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["inverted", "separable", "forked"])
def test_most_winners_are_the_float_files(files, tmp_path, name):
    _, made = files[name]
    chosen = {}
    for kind in ("float", "int8"):
        model = onnx.load(made[kind])
        onnx.save(with_winner_outputs(model), tmp_path / f"{kind}.onnx")
        session = runtime.Session(tmp_path / f"{kind}.onnx", threads=1, stock=True)
        chosen[kind] = dict(zip(winner_outputs(model), session.run([IMAGES])[1:], strict=True))
    assert chosen["float"].keys() == chosen["int8"].keys()
    for layer, winners in chosen["float"].items():
        kept = [len(np.intersect1d(*pair)) for pair in zip(winners, chosen["int8"][layer], strict=True)]
        assert np.mean(kept) >= 0.95 * winners.shape[1], layer


def test_a_depthwise_convolution_that_shares_its_planes_stays_float(files):
    _, made = files["forked"]
    model = onnx.load(made["int8"])
    onnx.checker.check_model(model, full_check=True)
    (note,) = files["exported"]["forked"].notes
    assert note == "int8: 4 FBS layers; depthwise.0 (others read its layer's planes too), head (Linear) stay float32"
    makers = {name: node for node in model.graph.node for name in node.output}
    (depthwise,) = (node for node in model.graph.node if node.op_type == "DepthwiseConv")
    before = makers[depthwise.input[0]]
    assert (before.op_type, makers[before.input[0]].op_type) == ("DequantizeLinear", "FBSConvInt8")
    (behind,) = (node for node in model.graph.node if depthwise.output[0] in node.input)
    (reader,) = (node for node in model.graph.node if behind.output[0] in node.input)
    assert (behind.op_type, reader.name) == ("QuantizeLinear", "project.0")
    assert given(model, reader)["E"].dtype == np.int32


def test_a_fused_layer_of_a_file_in_float_stays_float_and_its_reader_does_not(files, tmp_path):
    model, _ = files["inverted"]
    exporters.export(model, EXAMPLE, tmp_path / "float.onnx")
    mixed, (note,) = quantize_fbs(onnx.load(tmp_path / "float.onnx"), SETTINGS)
    assert note == (
        "int8: 3 FBS layers; block1.0 (FBSConvDepthwise), block2.0 (FBSConvDepthwise), head (Linear) stay float32"
    )
    (reader,) = (node for node in mixed.graph.node if node.name == "block1.6")
    assert given(mixed, reader)["E"].dtype == np.int32
    onnx.save(mixed, tmp_path / "mixed.onnx")
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES[:1])).numpy()
    for stock in (True, False):
        session = runtime.Session(tmp_path / "mixed.onnx", threads=1, stock=stock)
        assert np.abs(session.run([IMAGES[:1]])[0] - expected).max() <= 0.1 * np.abs(expected).max(), stock


def test_a_sum_onto_packed_planes_of_a_file_in_float_stays_float(files, tmp_path):
    _, paths = files["residual"]
    finished = onnx.load(paths["float"])
    packed = [node.name for node in finished.graph.node if node.op_type == "UnpackAdd" and len(node.input) == 4]
    assert packed
    mixed, _ = quantize_fbs(finished, SETTINGS)
    assert {node.op_type for node in mixed.graph.node if node.name in packed} == {"UnpackAdd"}
    onnx.save(mixed, tmp_path / "mixed.onnx")
    for stock in (True, False):
        found, wanted = (answers(file, stock=stock) for file in (tmp_path / "mixed.onnx", paths["float"]))
        assert np.abs(found - wanted).max() <= 0.1 * np.abs(wanted).max(), stock


def test_predictors_of_16_bits_stay_so(tmp_path):
    model = network_with_fbs(tiny.Inverted)
    with torch.no_grad():
        for parameter in (value for name, value in model.named_parameters() if name.endswith("saliency_weight")):
            parameter.copy_(parameter.half().float())
    exporters.export(model, EXAMPLE, tmp_path / "m.onnx", int8=SETTINGS)
    stored = onnx.load(tmp_path / "m.onnx")
    layers = [node for node in stored.graph.node if opset.OPS.get(node.op_type) in opset.FBS_LAYERS]
    assert len(layers) == 5
    for node in layers:
        found = given(stored, node)
        assert (found["A"].dtype, found["Q"]) == (np.float16, None)
        assert node.input[-1], "no empty input at the end"
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES[:1])).numpy()
    (answer,) = runtime.Session(tmp_path / "m.onnx", threads=1, stock=True).run([IMAGES[:1]])
    assert np.abs(answer - expected).max() <= 0.1 * np.abs(expected).max()


def float_file_in_pairs(model):
    """The finished float file that an int8 export starts from: pairs are not fused yet."""
    captured = capture(model, EXAMPLE, dynamic=False, onnx_opset=opset.ONNX_OPSET)
    return rewrite(captured, Onnx.passes(one_sample=False, int8=True), image=None)


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("_MOST_TAPS", 8, r"block1\.3 \(a filter has 9 weights, and at most 8 are summed exactly\)"),
        ("_MOST_LEFT_OUT", 2, r"block1\.6 \(a channel that is absent counts with \d+ steps, at most 2 may\)"),
    ],
)
def test_what_the_kernels_cannot_count_stays_float(files, monkeypatch, limit, value, why):
    model, _ = files["inverted"]
    monkeypatch.setattr(int8_plan, limit, value)
    result, (note,) = quantize_fbs(float_file_in_pairs(model), SETTINGS)
    assert re.search(why, note)
    onnx.checker.check_model(result, full_check=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_stock_and_every_instruction_set_agree(files, name):
    _, made = files[name]
    path = made["int8"]
    stock = answers(path, stock=True)
    natives = [answers(path, isa=isa.name) for isa in runtime.isas() if isa.built and isa.supported]
    for native in natives:
        np.testing.assert_allclose(native, natives[0], rtol=0, atol=1e-5 * np.abs(native).max())
    # A byte that differs by one step, of 255, somewhere.
    errors = np.abs(natives[0] - stock).max(axis=1) / np.abs(stock).max()
    assert np.median(errors) <= 0.002


def test_bytes_flow_between_layers_and_through_pools(files):
    _, made = files["chain"]
    model = onnx.load(made["int8"])
    onnx.checker.check_model(model, full_check=True)
    makers = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type == "FBSConvInt8"]
    assert len(layers) == 3
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 1, "of the input alone"
    assert [node.op_type for node in model.graph.node].count("DequantizeLinear") == 1, "before the average"
    assert makers[layers[1].input[0]] == layers[0]
    behind_pool = makers[layers[2].input[0]]
    while behind_pool.op_type in ("Transpose", "MaxPool"):
        behind_pool = makers[behind_pool.input[0]]
    assert behind_pool == layers[1]
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for before, after in ((layers[0], layers[1]), (layers[1], layers[2])):
        y, x = ({entry.name: helper.get_attribute_value(entry) for entry in node.attribute} for node in (before, after))
        assert (y["y_step"], y["y_zero"]) == (x["x_step"], x["x_zero"])
        assert x["x_zero"] == 0, "behind a ReLU"
        assert types[before.output[0]] == TensorProto.UINT8


def test_residual_sums_are_of_bytes_where_an_fbs_layer_reads_them(files):
    _, made = files["residual"]
    before, model = onnx.load(made["float"]), onnx.load(made["int8"])
    onnx.checker.check_model(model, full_check=True)
    floats, ops = ([node.op_type for node in graph.graph.node] for graph in (before, model))
    assert floats.count("UnpackAdd") == 2
    # The second sum is averaged and classified: no reason to round it.
    assert ops.count("UnpackAddInt8") == ops.count("UnpackAdd") == 1
    assert ops.count("QuantizeLinear") == 1, "of the input alone"
    (total,) = (node for node in model.graph.node if node.op_type == "UnpackAddInt8")
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in total.attribute}
    readers = [node for node in model.graph.node if total.output[0] in node.input]
    layers = [node for node in readers if node.op_type == "FBSConvInt8"]
    assert len(layers) == 2, "the block's first convolution and its shortcut"
    for layer in layers:
        scales = {entry.name: helper.get_attribute_value(entry) for entry in layer.attribute}
        assert (scales["x_step"], scales["x_zero"]) == (attributes["y_step"], attributes["y_zero"])
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert types[total.output[0]] == TensorProto.UINT8


@pytest.mark.parametrize("name", ["chain", "residual"])
def test_linear_layers_with_many_weights_have_whole_numbers(files, name, monkeypatch, tmp_path):
    model, made = files[name]
    monkeypatch.setattr(int8_plan, "_MOST_CHEAP_WEIGHTS", 1)
    path = tmp_path / "m.onnx"
    (note,) = exporters.export(model, EXAMPLE, path, batch="dynamic", int8=SETTINGS).notes
    assert note.endswith(" FBS layers, 1 linear"), "nothing stays float"
    result = onnx.load(path)
    ops = [node.op_type for node in result.graph.node]
    assert ops.count("MatMulInteger") + ops.count("Linear") == 1
    assert "Gemm" not in ops
    (held,) = (
        entry for entry in result.graph.initializer if entry.name.endswith(".weight.int8") and len(entry.dims) == 2
    )
    assert np.abs(numpy_helper.to_array(held)).max(axis=0).min() == 127, "every output's column uses its range"
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    assert np.median(np.abs(answers(path) - expected).max(axis=1)) <= 0.05 * np.abs(expected).max()
    np.testing.assert_allclose(answers(path, isa="generic"), answers(path), rtol=0, atol=1e-5 * np.abs(expected).max())
    errors = np.abs(answers(path) - answers(path, stock=True)).max(axis=1) / np.abs(expected).max()
    assert np.median(errors) <= 0.01
    before, report = (exporters.inspect_onnx(file) for file in (made["float"], path))
    assert report.parameters == before.parameters
    assert report.macs is not None
    assert report.macs >= before.macs


def test_weights_are_whole_numbers_that_use_their_range(files):
    _, made = files["chain"]
    stored = onnx.load(made["int8"])
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored.graph.initializer}
    floats = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(made["float"]).graph.initializer}
    for node in stored.graph.node:
        if node.op_type == "FBSConvInt8":
            levels, steps = held[node.input[2]], held[node.input[3]]
            assert levels.dtype == np.int8
            np.testing.assert_array_equal(np.abs(levels).reshape(len(levels), -1).max(axis=1), 127)
            weight = floats[node.input[2].removesuffix(".int8")]
            error = np.abs(levels * steps.reshape(-1, 1, 1, 1) - weight).reshape(len(levels), -1).max(axis=1)
            assert (error <= 0.5001 * steps).all()
    assert made["int8"].stat().st_size < made["float"].stat().st_size


def test_the_file_says_what_it_is(files):
    _, made = files["chain"]
    before, report = (exporters.inspect_onnx(made[kind]) for kind in ("float", "int8"))
    assert report.metadata["int8"] == {"calibration": "min-max", "images": 32}
    assert report.macs == before.macs
    assert report.parameters == before.parameters
    layers = [node for node in report.nodes if node.op == "compress.FBSConvInt8"]
    assert {node.method for node in layers} == {"fbs+int8"}
    assert [node.density for node in layers] == [0.5] * 3
    assert runtime.Session(made["int8"]).isa is not None
    (note,) = [note for note in files["exported"]["chain"].notes if note.startswith("int8")]
    assert note == "int8: 3 FBS layers; classifier (Linear) stay float32"


def test_a_file_survives_being_read_and_written(files, tmp_path):
    _, made = files["residual"]
    onnx.save(onnx.load(made["int8"]), tmp_path / "again.onnx")
    np.testing.assert_array_equal(answers(tmp_path / "again.onnx"), answers(made["int8"]))


def test_preprocessing_goes_before_it(files, tmp_path):
    _, made = files["chain"]
    image = ImageInput((0.5,) * 3, (0.25,) * 3, SHAPE)
    path = tmp_path / "with.onnx"
    prepend_to_file(made["int8"], path, image)
    pixels = np.random.default_rng(1).integers(0, 256, size=(4, 12, 10, 3)).astype(np.uint8)
    floats = torch_image_input(torch.from_numpy(pixels), image).numpy()
    (expected,) = runtime.Session(made["int8"], threads=1).run([floats])
    for stock in (False, True):
        (found,) = runtime.Session(path, threads=1, stock=stock).run([pixels])
        assert np.median(np.abs(found - expected)) <= 0.01 * np.abs(expected).max()
    assert [node.op_type for node in onnx.load(path).graph.node].count("FBSConvInt8") == 3


def test_verify_compares_it_on_real_images(files):
    model, made = files["chain"]
    report = verify(model, made["int8"], {"images": IMAGES}, batches=(8,))
    assert report.tolerance > 0.01
    assert {"stock", "generic"} <= set(report.paths)
    assert report.top1_agreement >= 0.8


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_every_calibration_works_and_repeats(files, tmp_path, calibration):
    _, made = files["chain"]
    model, settings = onnx.load(made["float"]), Int8Settings(calibration, IMAGES)
    first, second = (quantize_fbs(model, settings)[0] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    onnx.save(first, tmp_path / "m.onnx")
    expected = answers(made["float"])
    assert np.median(np.abs(answers(tmp_path / "m.onnx") - expected).max(axis=1)) <= 0.05 * np.abs(expected).max()


def test_fixed_point_weights_keep_their_steps(files):
    _, made = files["chain"]
    model = onnx.load(made["float"])
    node = next(node for node in model.graph.node if node.op_type == "FBSConv")
    (weight,) = (numpy_helper.to_array(entry) for entry in model.graph.initializer if entry.name == node.input[2])
    steps = np.full(len(weight), np.abs(weight).max() / 100, np.float32)
    result, _ = quantize_fbs(model, SETTINGS, steps={node.input[2]: (steps, 0)})
    held = {entry.name: numpy_helper.to_array(entry) for entry in result.graph.initializer}
    (changed,) = (other for other in result.graph.node if other.name == node.name)
    np.testing.assert_array_equal(held[changed.input[3]], steps)
    np.testing.assert_array_equal(held[changed.input[2]], np.rint(weight / steps[0]))


def test_what_cannot_be_int8_is_said(files, monkeypatch):
    _, made = files["chain"]
    model = onnx.load(made["float"])
    assert has_fbs_layers(model)
    monkeypatch.setattr(int8_plan, "_MOST_TERMS", 50)  # the layers sum up 27, 72 and 16 products
    result, (note,) = quantize_fbs(model, SETTINGS)
    assert note == (
        "int8: 2 FBS layers; features.3 (an output sums up 72 products, and int32 holds 50), classifier (Linear) stay "
        "float32"
    )
    onnx.checker.check_model(result, full_check=True)
    assert [node.op_type for node in result.graph.node if "FBS" in node.op_type] == [
        "FBSConvInt8",
        "FBSConv",
        "FBSConvInt8",
    ]
    monkeypatch.setattr(int8_plan, "_MOST_TERMS", 1)
    with pytest.raises(ExportError, match=r"no layer can become int8: features\.0 .*; leave --int8 out"):
        quantize_fbs(model, SETTINGS)


def test_images_that_do_not_fit_are_refused(files):
    _, made = files["chain"]
    for images in (IMAGES[:0], IMAGES[:, :1]):
        with pytest.raises(ExportError, match="calibration was given"):
            quantize_fbs(onnx.load(made["float"]), Int8Settings("min-max", images))


def test_the_op_is_in_the_table():
    op = opset.OPS["FBSConvInt8"]
    assert {attribute.name for attribute in opset.FBS_CONV.attributes} < {attribute.name for attribute in op.attributes}
