import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_networks as tiny
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

import exporters
import runtime
from compressor.methods.fbs import layers
from compressor.quantise import Scheme, apply, kernel_names, quantise_all
from exporters import ExportError, opset
from exporters.fixed_point import FixedWeight, recover
from exporters.inspect import inspect_onnx
from exporters.int8 import Int8Settings
from exporters.verify import verify

EXAMPLE = torch.zeros(1, 3, 12, 10)
# What a file has besides numbers: nodes, names and metadata of these small networks, and function bodies of FBS.
OVERHEAD = {False: 5_000, True: 20_000}


class Wide(nn.Module):
    """Large enough that numbers and not names make the file."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3)
        self.bn = nn.BatchNorm2d(64)
        self.grouped = nn.Conv2d(64, 128, 3, groups=2)
        self.fc = nn.Linear(128, 128)

    def forward(self, x):
        y = torch.relu(self.grouped(torch.relu(self.bn(self.conv(x)))))
        return self.fc(y.mean((2, 3)))


def dense_chain():
    return tiny.settled(tiny.Chain())


def fbs_chain():
    return tiny.with_fbs(tiny.settled(tiny.Chain()))


def fbs_residual():
    return tiny.with_fbs(tiny.settled(tiny.Residual()))


def turned_around():
    """Batch norms with negative and zero scales, as training leaves some."""
    network = tiny.settled(tiny.Chain())
    with torch.no_grad():
        network.features[1].weight[::2].neg_()
        network.features[1].weight[3] = 0.0
        network.features[0].weight[5] = 0.0  # a channel that is pruned
    return network


NETWORKS = {f.__name__: f for f in (dense_chain, fbs_chain, fbs_residual, turned_around, Wide)}


def in_fixed_point(network, bits, scheme=None):
    """Changes `network`; returns it and its weights as the exporter takes them. Predictors get 8 bits."""
    network = network.eval()
    dynamic = layers(network)
    predictors = [f"{name}.saliency_weight" for name in dynamic]
    words = dict.fromkeys(kernel_names(network), bits) | dict.fromkeys(predictors, 8)
    fixed = quantise_all(dict(network.named_parameters()), words, scheme or Scheme(), axes=dict.fromkeys(predictors, 1))
    apply(network, fixed)
    weights = []
    for name, values in fixed.items():
        module = name.rpartition(".")[0]
        outer = module.rpartition(".")[0]
        weights.append(
            FixedWeight(
                name=name,
                module=outer if outer in dynamic else module,
                levels=values.levels.numpy(),
                step=values.step.numpy(),
                axis=int(name in predictors),
                bits=values.bits,
            )
        )
    return network, weights


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports each network in each form once."""
    folder = tmp_path_factory.mktemp("quantized")
    done = {}

    def export(name, bits, scheme=None, **options):
        key = (name, bits, scheme or Scheme(), *options.values())
        if key not in done:
            torch.manual_seed(0)
            network, weights = in_fixed_point(NETWORKS[name](), bits, scheme)
            path = folder / f"{len(done)}.onnx"
            done[key] = network, weights, exporters.export(network, EXAMPLE, path, fixed_point=weights, **options)
        return done[key]

    return export


def initializers(path):
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(
    ("name", "bits", "scheme"),
    [
        ("turned_around", 2, Scheme()),
        ("turned_around", 4, Scheme(per_channel=True)),
        ("turned_around", 8, Scheme(pow2=True)),
        ("fbs_chain", 4, Scheme()),
        ("fbs_chain", 6, Scheme(per_channel=True)),
    ],
)
def test_file_equals_torch_everywhere(exported, name, bits, scheme):
    network, _, result = exported(name, bits, scheme)
    assert result.max_difference <= 1e-4
    images = {"images": np.random.default_rng(7).normal(size=(4, 3, 12, 10)).astype(np.float32)}
    report = verify(network, result.path, images, batches=(1, 4))
    assert report.passed
    assert report.near_ties == 0


@pytest.mark.parametrize(("name", "batch"), [("fbs_residual", "dynamic"), ("Wide", 3), ("fbs_chain", 8)])
def test_other_networks_and_batches_too(exported, name, batch):
    network, _, result = exported(name, 4, batch=batch)
    assert verify(network, result.path).passed


@pytest.mark.parametrize(("bits", "target"), [(4, "onnx"), (4, "tensorrt"), (6, "onnx")])
def test_every_weight_is_stored_in_its_width_and_none_in_float(exported, bits, target):
    _, weights, result = exported("fbs_chain", bits, **({} if target == "onnx" else {"target": target}))
    held = initializers(result.path)
    integers = [tensor for tensor in held.values() if tensor.data_type in (TensorProto.INT4, TensorProto.INT8)]
    assert len(integers) == len(weights)
    wanted = collections.Counter(TensorProto.INT4 if weight.bits <= 4 else TensorProto.INT8 for weight in weights)
    assert collections.Counter(tensor.data_type for tensor in integers) == wanted
    assert (
        max(tensor.dims[0] for tensor in held.values() if tensor.data_type == TensorProto.FLOAT and tensor.dims) <= 16
    )
    floats = [tensor for tensor in held.values() if tensor.data_type == TensorProto.FLOAT]
    assert not [tensor.name for tensor in floats if len(tensor.dims) > 1 and np.prod(tensor.dims) > 16]


@pytest.mark.parametrize(("bits", "scheme"), [(4, Scheme()), (8, Scheme(per_channel=True))])
def test_levels_in_the_file_are_those_of_the_network(exported, bits, scheme):
    _, weights, result = exported("Wide", bits, scheme)
    held = initializers(result.path)
    for weight in weights:
        levels = numpy_helper.to_array(held[f"{weight.name}.levels"]).astype(np.int8)
        assert levels.size == weight.levels.size
        assert np.abs(levels).max() <= 2 ** (bits - 1) - 1
        same = levels.reshape(-1) if levels.shape == weight.levels.shape else levels.T.reshape(-1)
        assert np.array_equal(np.abs(same), np.abs(weight.levels.reshape(-1)))
    # No batch norm behind it: the network's own steps are in the file.
    assert np.array_equal(numpy_helper.to_array(held["grouped.weight.scale"]), weights[1].step)


@pytest.mark.parametrize(("name", "bits"), [("Wide", 2), ("Wide", 4), ("Wide", 5), ("fbs_residual", 4)])
def test_10_file_is_as_small_as_its_words(exported, name, bits):
    _, weights, result = exported(name, bits)
    words = sum(weight.levels.size * (4 if weight.bits <= 4 else 8) / 8 for weight in weights)
    held = initializers(result.path).values()
    integers = (TensorProto.INT4, TensorProto.INT8)
    rest = sum(numpy_helper.to_array(tensor).nbytes for tensor in held if tensor.data_type not in integers)
    names = sum(len(node.SerializeToString()) for node in onnx.load(result.path).graph.node)
    assert words + rest < result.file_bytes < 1.05 * (words + rest) + names + OVERHEAD[name != "Wide"]
    report = inspect_onnx(result.path)
    assert sum(node.weight_bytes for node in report.nodes) == pytest.approx(words + rest, abs=len(weights))
    assert {name: entry["bits"] for name, entry in report.metadata["fixed_point"].items()} == {
        weight.name: weight.bits for weight in weights
    }


def test_large_networks_shrink_by_the_width(tmp_path):
    class Larger(Wide):
        def __init__(self):
            super().__init__()
            self.grouped = nn.Conv2d(64, 128, 3)
            self.fc = nn.Linear(128, 1024)

    torch.manual_seed(0)
    network, weights = in_fixed_point(Larger(), 4)
    path = tmp_path / "q.onnx"
    small = exporters.export(network, EXAMPLE, path, fixed_point=weights).file_bytes
    words = sum(weight.levels.size for weight in weights) / 2
    rest = 4 * (64 + 64 + 128 + 1024 + 2)
    assert small == pytest.approx(words + rest, rel=0.05)
    assert exporters.export(network, EXAMPLE, path).file_bytes > 7 * small


def test_macs_and_layers_are_those_of_the_float_file(exported, tmp_path):
    network, _, result = exported("fbs_residual", 4)
    plain = exporters.export(network, EXAMPLE, tmp_path / "float.onnx")
    small, large = inspect_onnx(result.path), inspect_onnx(plain.path)
    assert small.macs == large.macs
    assert small.parameters == large.parameters
    by_name = {node.name: node for node in small.nodes}
    for node in large.nodes:
        assert by_name[node.name].channels_out == node.channels_out
        assert by_name[node.name].parameters == node.parameters
    assert by_name["head"].method == "int4"
    assert by_name["layer1.conv1"].method == "fbs+int4+int8"


def test_with_int8_depthwise_convolutions_are_dense_and_predictors_are_int8(tmp_path):
    network, weights = in_fixed_point(tiny.with_fbs(tiny.settled(tiny.Inverted()), spread=1.0), 5)
    int8 = Int8Settings("min-max", np.random.default_rng(0).normal(size=(8, *EXAMPLE.shape[1:])).astype(np.float32))
    exporters.export(network, EXAMPLE, tmp_path / "m.onnx", fixed_point=weights, int8=int8)
    model = onnx.load(tmp_path / "m.onnx")
    ops = collections.Counter(node.op_type for node in model.graph.node)
    assert (ops["FBSConvInt8"], ops["Conv"]) == (5, 2)
    assert {"DepthwiseConv", "FBSConvDepthwiseInt8"}.isdisjoint(ops)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    given = [opset.FBS_CONV_INT8.given(node.input) for node in model.graph.node if node.op_type == "FBSConvInt8"]
    assert {(types[names["A"]], types[names["Q"]]) for names in given} == {(TensorProto.INT8, TensorProto.FLOAT)}


def test_own_kernels_get_weights_that_fold_in_every_session(exported):
    if runtime.library_path() is None:
        pytest.skip("the native library is not built")
    _, _, result = exported("fbs_chain", 4)
    ops = collections.Counter(node.op_type for node in onnx.load(result.path).graph.node)
    assert (ops["Cast"], ops["DequantizeLinear"]) == (6, 1)  # three FBS layers' weights and predictors; the classifier
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(runtime.library_path()))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(result.path), options, providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.zeros((1, 3, 12, 10), np.float32)})[0].shape == (1, 5)


def test_our_sessions_fold_weights_at_load(exported, tmp_path, monkeypatch):
    _, _, result = exported("dense_chain", 4)
    optimized = tmp_path / "optimized.onnx"
    kept = onnxruntime.SessionOptions

    def with_dump():
        options = kept()
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", with_dump)
    runtime.Session(result.path, threads=1)
    assert "DequantizeLinear" not in {node.op_type for node in onnx.load(optimized).graph.node}


def test_same_network_gives_same_bytes(exported, tmp_path):
    network, weights, result = exported("fbs_residual", 4)
    again = exporters.export(network, EXAMPLE, tmp_path / "again.onnx", fixed_point=weights)
    assert again.path.read_bytes() == result.path.read_bytes()


def test_four_bits_need_an_opset_that_has_them_and_eight_do_not(exported, tmp_path):
    with pytest.raises(ExportError, match="4-bit weights are stored as INT4, which opset 20 does not have; choose 21"):
        exported("dense_chain", 4, opset=20)
    assert exported("dense_chain", 5, opset=18)[2].opset == 18
    assert exported("dense_chain", 4, opset=21)[2].opset == 21


def test_weights_off_their_levels_are_refused(tmp_path):
    network, weights = in_fixed_point(tiny.settled(tiny.Chain()), 4)
    with torch.no_grad():
        network.features[3].weight += 0.01
    with pytest.raises(ExportError, match=r"node 'features\.3': its weight is not a multiple of the 4-bit levels"):
        exporters.export(network, EXAMPLE, tmp_path / "q.onnx", fixed_point=weights)
    assert not list(tmp_path.iterdir())


def test_a_module_called_twice_keeps_one_weight(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.fc = nn.Linear(10, 10)

        def forward(self, x):
            return self.fc(self.fc(self.conv(torch.relu(self.conv(x)))))

    network, weights = in_fixed_point(Twice(), 4)
    result = exporters.export(network, EXAMPLE, tmp_path / "q.onnx", fixed_point=weights)
    types = [tensor.data_type for tensor in initializers(result.path).values() if len(tensor.dims) > 1]
    assert set(types) == {TensorProto.INT4}


def fixed_weight(levels, step=0.5, axis=0):
    return FixedWeight("w", "m", levels.astype(np.int8), np.float32(step), axis, 4)


def some_levels(*shape):
    return np.random.default_rng(1).integers(-7, 8, shape)


def test_recovery_sees_through_scales_signs_and_transposition():
    levels = some_levels(6, 5)
    scale = np.array([0.3, -0.2, 1e-4, 7.0, 0.3, 0.5], np.float32)
    weight = (levels * scale[:, None]).astype(np.float32)
    for given, axis in ((weight, 0), (weight.T.copy(), 1)):
        words = recover(fixed_weight(levels), given)
        assert words.axis == axis
        shape = (-1, 1) if axis == 0 else (1, -1)
        assert (words.scale > 0).all()
        np.testing.assert_allclose(words.levels * words.scale.reshape(shape), given, rtol=1e-6)


def test_recovery_of_a_kernel_with_columns_left_out():
    levels = some_levels(6, 4, 3, 3)
    levels[:, :, ::2, ::2] = 0
    columns = np.flatnonzero(levels.reshape(6, -1).any(axis=0))
    weight = (levels.reshape(6, -1)[:, columns] * 0.25).astype(np.float32)
    words = recover(fixed_weight(levels, 0.25), weight)
    np.testing.assert_array_equal(words.levels, levels.reshape(6, -1)[:, columns])
    assert words.scale == np.float32(0.25)


def test_recovery_refuses_what_is_no_multiple():
    levels = some_levels(6, 5)
    assert recover(fixed_weight(levels), (levels * 0.5 + 0.1).astype(np.float32)) is None
    assert recover(fixed_weight(levels), (levels[::-1] * 0.5).astype(np.float32)) is None
    assert recover(fixed_weight(levels), np.ones((3, 3), np.float32)) is None
