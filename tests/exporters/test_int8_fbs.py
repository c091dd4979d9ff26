"""FBS layers in int8: the same in stock ONNX Runtime and on the native kernels, close to the float network."""

import numpy as np
import onnx
import pytest
import tiny_networks as tiny
import torch
from onnx import TensorProto, helper, numpy_helper

import exporters
import runtime
from exporters import ExportError, int8_fbs, opset
from exporters.image_input import ImageInput, torch_image_input
from exporters.int8 import CALIBRATIONS, Int8Settings
from exporters.int8_fbs import has_fbs_layers, quantize_fbs
from exporters.prepend import prepend_to_file
from exporters.verify import verify

SHAPE = (3, 12, 10)
EXAMPLE = torch.zeros(1, *SHAPE)
IMAGES = np.random.default_rng(0).normal(size=(32, *SHAPE)).astype(np.float32)
SETTINGS = Int8Settings("min-max", IMAGES)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two networks with FBS layers, as float and as int8 file, of any batch."""
    folder = tmp_path_factory.mktemp("int8_fbs")
    made = {}
    for name, network in {"chain": tiny.Chain, "residual": tiny.Residual}.items():
        model = tiny.with_fbs(tiny.settled(network()), spread=1.0).eval()
        paths = {kind: folder / f"{name}.{kind}.onnx" for kind in ("float", "int8")}
        exporters.export(model, EXAMPLE, paths["float"], batch="dynamic")
        made[name] = model, paths
    model, paths = made["chain"]
    made["exported"] = exporters.export(model, EXAMPLE, paths["int8"], batch="dynamic", int8=SETTINGS)
    model, paths = made["residual"]
    exporters.export(model, EXAMPLE, paths["int8"], batch="dynamic", int8=SETTINGS)
    return made


def answers(path, isa=None, stock=False):
    return runtime.Session(path, threads=1, isa=isa, stock=stock).run([IMAGES])[0]


@pytest.mark.parametrize("name", ["chain", "residual"])
def test_outputs_are_close_to_the_float_networks(files, name):
    model, made = files[name]
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    errors = np.abs(answers(made["int8"]) - expected).max(axis=1)
    # Most samples choose the same winners; 8 bits in several layers then.
    assert np.median(errors) <= 0.05 * np.abs(expected).max()
    assert errors.max() > 0, "something was rounded"


def test_depthwise_convolutions_are_dense_in_int8_and_a_packed_one_keeps_its_reader_float(tmp_path):
    model = tiny.with_fbs(tiny.settled(tiny.Inverted()), spread=1.0).eval()
    result = exporters.export(model, EXAMPLE, tmp_path / "int8.onnx", int8=SETTINGS)
    assert {"compress.DepthwiseConv", "compress.FBSConvDepthwise"}.isdisjoint(result.ops)
    assert {"compress.FBSConvInt8", "Conv"} <= set(result.ops)
    exporters.export(model, EXAMPLE, tmp_path / "float.onnx")
    mixed, (note,) = quantize_fbs(onnx.load(tmp_path / "float.onnx"), SETTINGS)
    assert "block1.0 (FBSConvDepthwise), block1.6 (it reads a depthwise convolution's packed planes)" in note
    onnx.save(mixed, tmp_path / "mixed.onnx")
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES[:1])).numpy()
    for name in ("int8", "mixed"):
        for stock in (False, True):
            session = runtime.Session(tmp_path / f"{name}.onnx", threads=1, stock=stock)
            assert np.abs(session.run([IMAGES[:1]])[0] - expected).max() <= 0.1 * np.abs(expected).max(), (name, stock)


@pytest.mark.parametrize("name", ["chain", "residual"])
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
def test_linear_layers_with_many_weights_multiply_whole_numbers(files, name, monkeypatch, tmp_path):
    model, made = files[name]
    monkeypatch.setattr(int8_fbs, "_MOST_CHEAP_WEIGHTS", 1)
    path = tmp_path / "m.onnx"
    (note,) = exporters.export(model, EXAMPLE, path, batch="dynamic", int8=SETTINGS).notes
    assert note.endswith(" FBS layers, 1 linear"), "nothing stays float"
    result = onnx.load(path)
    ops = [node.op_type for node in result.graph.node]
    assert ops.count("MatMulInteger") == 1
    assert not {"Linear", "Gemm"} & set(ops)
    (held,) = (
        entry for entry in result.graph.initializer if entry.name.endswith("weight.int8") and len(entry.dims) == 2
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
    (note,) = [note for note in files["exported"].notes if note.startswith("int8")]
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
    monkeypatch.setattr(int8_fbs, "_MOST_TERMS", 50)  # the layers sum up 27, 72 and 16 products
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
    monkeypatch.setattr(int8_fbs, "_MOST_TERMS", 1)
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
