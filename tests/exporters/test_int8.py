"""Static int8: Q/DQ where they belong, zero points 0 where they must be, close to the float network."""

import numpy as np
import onnx
import pytest
import tiny_networks as tiny
import torch
from onnx import numpy_helper

import exporters
import runtime
from exporters import ExportError
from exporters.fixed_point import FixedWeight
from exporters.image_input import ImageInput, torch_image_input
from exporters.int8 import CALIBRATIONS, Int8Settings
from exporters.prepend import prepend_to_file
from exporters.tensorrt_lint import lint_tensorrt
from exporters.verify import verify

SHAPE = (3, 12, 10)
EXAMPLE = torch.zeros(1, *SHAPE)
IMAGES = np.random.default_rng(0).normal(size=(32, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Residual network of 8 and 16 channels as float and int8, for both targets."""
    folder = tmp_path_factory.mktemp("int8")
    network = tiny.settled(tiny.Residual()).eval()
    made = {"float": exporters.export(network, EXAMPLE, folder / "float.onnx", batch="dynamic").path}
    for target in ("onnx", "tensorrt"):
        settings = Int8Settings("min-max", IMAGES)
        path = folder / f"{target}.onnx"
        made[target] = exporters.export(
            network, EXAMPLE, path, batch="dynamic", target=target, int8=settings, metadata={"method": "none"}
        ).path
    return network, made


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_outputs_are_close_to_the_float_networks(files, target):
    network, made = files
    with torch.no_grad():
        expected = network(torch.from_numpy(IMAGES)).numpy()
    (found,) = runtime.Session(made[target], threads=1).run([IMAGES])
    assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max(), "8 bits in seven layers"
    assert np.abs(found - expected).max() > 0, "something was rounded"


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_weights_are_symmetric_per_output_channel(files, target):
    _, made = files
    model = onnx.load(made[target])
    held = constants(model)
    makers = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 7
    for node in layers:
        pair = makers[node.input[1]]
        assert pair.op_type == "DequantizeLinear"
        weight, steps, zeros = (held[name] for name in pair.input)
        assert weight.dtype == np.int8
        assert not zeros.any()
        assert steps.shape == weight.shape[:1]
        assert abs(int(weight.max())) == 127 or abs(int(weight.min())) >= 127


def test_for_tensorrt_activations_are_symmetric_and_only_inputs_of_layers_are_quantised(files):
    _, made = files
    model = onnx.load(made["tensorrt"])
    assert lint_tensorrt(model) == []
    held = constants(model)
    readers = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert not held[node.input[2]].any()
            assert held[node.input[2]].dtype == np.int8
            (dequantize,) = [other for other in model.graph.node if other.input[0] == node.output[0]]
            assert set(readers[dequantize.output[0]]) <= {"Conv", "Gemm", "Add"}
        if node.op_type == "Conv":
            assert readers[node.output[0]] in (["Relu"], ["Add"]), (
                "nothing between a convolution and what fuses with it"
            )
            assert node.input[2] in held, "biases stay float"


def test_a_shortcut_is_read_through_the_pair_of_its_other_reader(files):
    _, made = files
    model = onnx.load(made["tensorrt"])
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    sums = [sorted(makers[name] for name in node.input) for node in model.graph.node if node.op_type == "Add"]
    assert ["Conv", "DequantizeLinear"] in sums


def test_onnx_runtime_runs_integer_kernels(files, tmp_path):
    import onnxruntime

    _, made = files
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(made["onnx"]), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("QLinearConv") == 6
    assert "Conv" not in ops


def test_the_file_says_how_it_was_calibrated_and_inspect_counts_its_bytes(files):
    _, made = files
    report, before = (exporters.inspect_onnx(made[name]) for name in ("tensorrt", "float"))
    assert report.metadata["int8"] == {"calibration": "min-max", "images": 32}
    assert report.metadata["method"] == "none"
    assert report.macs == before.macs
    assert report.parameters == before.parameters
    assert report.weight_bytes < 0.5 * before.weight_bytes, "a quarter, and steps and biases beside it"
    assert {node.method for node in report.nodes if node.op in ("Conv", "Gemm")} == {"int8"}


@pytest.mark.parametrize("fbs", [False, True], ids=["dense", "fbs"])
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_numbers_without_a_range_are_refused(tmp_path, calibration, fbs):
    network = tiny.settled(tiny.Chain()).eval()
    network = tiny.with_fbs(network).eval() if fbs else network
    images = np.where(IMAGES > 0, np.float32(3e38), np.float32(-3e38))
    with pytest.raises(ExportError, match=r"infinite or NaN on one of the 32 calibration images"):
        exporters.export(network, EXAMPLE, tmp_path / "m.onnx", int8=Int8Settings(calibration, images))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_every_calibration_works_and_repeats(tmp_path, calibration):
    network = tiny.settled(torch.nn.Sequential(*tiny.block(3, 8), torch.nn.Flatten(), torch.nn.Linear(960, 5)))
    digests = set()
    for name in ("one", "other") if calibration == "percentile" else ("one",):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "m.onnx"
        result = exporters.export(network, EXAMPLE, path, int8=Int8Settings(calibration, IMAGES))
        digests.add(result.path.read_bytes())
    assert len(digests) == 1
    report = verify(network, path, {"images": IMAGES}, batches=(1,))
    assert report.passed
    assert report.tolerance > 0.01


def test_fbs_layers_become_int8_where_they_are_spelled_out(tmp_path):
    network = tiny.with_fbs(tiny.settled(tiny.Chain()))
    settings = Int8Settings("min-max", IMAGES)
    result = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", int8=settings, target="tensorrt")
    assert lint_tensorrt(onnx.load(result.path)) == []
    methods = {node.method for node in exporters.inspect_onnx(result.path).nodes if node.op == "Conv"}
    assert methods == {"fbs+int8"}


def test_preprocessing_goes_before_a_finished_int8_file(files, tmp_path):
    _, made = files
    image = ImageInput((0.5,) * 3, (0.25,) * 3, SHAPE)
    path = tmp_path / "with.onnx"
    prepend_to_file(made["tensorrt"], path, image)
    pixels = np.random.default_rng(1).integers(0, 256, size=(4, 12, 10, 3)).astype(np.uint8)
    (expected,) = runtime.Session(made["tensorrt"]).run([torch_image_input(torch.from_numpy(pixels), image).numpy()])
    (found,) = runtime.Session(path).run([pixels])
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()
    metadata = exporters.inspect_onnx(path).metadata
    assert metadata["input"] == image.to_json()
    assert metadata["int8"]["images"] == 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            lambda: Int8Settings("magic", IMAGES),
            "unknown calibration 'magic'; choose from: min-max, percentile, entropy",
        ),
        (lambda: Int8Settings("min-max", IMAGES[:0]), "given 0 inputs"),
        (lambda: Int8Settings("min-max", IMAGES[:, :1]), r"of \(1, 12, 10\); the file takes"),
    ],
)
def test_what_cannot_be_calibrated_is_said(tmp_path, settings, message):
    with pytest.raises(ExportError, match=message):
        exporters.export(tiny.settled(tiny.Chain()), EXAMPLE, tmp_path / "m.onnx", int8=settings())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_fixed_point_weights_keep_their_steps(tmp_path, target):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    generator = np.random.default_rng(0)
    step = np.float32(2.0**-5)
    weights = []
    for name in ("0", "2"):
        conv = network.get_submodule(name)
        levels = generator.integers(-7, 8, size=tuple(conv.weight.shape)).astype(np.int8)
        conv.weight.data = torch.from_numpy(step * levels)
        weights.append(FixedWeight(f"{name}.weight", name, levels, np.asarray(step), axis=0, bits=4))
    result = exporters.export(
        network,
        EXAMPLE,
        tmp_path / "m.onnx",
        target=target,
        int8=Int8Settings("min-max", IMAGES),
        fixed_point=weights,
    )
    model = onnx.load(result.path)
    held = constants(model)
    makers = {node.output[0]: node for node in model.graph.node}
    for node, fixed in zip([node for node in model.graph.node if node.op_type == "Conv"], weights, strict=True):
        found, steps, _ = (held[name] for name in makers[node.input[1]].input)
        np.testing.assert_array_equal(found, fixed.levels)
        np.testing.assert_array_equal(steps, np.full(len(found), step))
    assert exporters.inspect_onnx(result.path).metadata["fixed_point"]["0.weight"]["bits"] == 4
