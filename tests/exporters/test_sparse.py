"""Pruned convolutions in a file: smaller kernels, SparseConv, or dense; and that the file says which and why."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import exporters
import runtime
from compressor.methods.structured_lowering import lower, lowered_conv2d
from compressor.quantise import Scheme, apply, kernel_names, quantise_all
from exporters import ExportError, opset
from exporters.fixed_point import FixedWeight
from exporters.functions import attach_functions
from exporters.inspect import inspect_onnx
from exporters.metadata import read_metadata
from exporters.passes.narrow_kernels import narrowed
from exporters.sparse_form import predicted_speedup
from exporters.verify import verify


def offsets_mask(channels, kernel, *, stride=2, seed=0):
    """(C, kh, kw): of each source map each second position of the flattened kernel, from an offset of its own."""
    taps = np.arange(kernel[0] * kernel[1])
    offsets = np.random.default_rng(seed).integers(stride, size=(channels, 1))
    return torch.from_numpy((taps % stride == offsets).reshape(channels, *kernel))


class Strided(nn.Module):
    """Convolutions with a strided mask on the second and third; sizes at which the rule likes SparseConv."""

    def __init__(self, width=32, kernel=3):
        super().__init__()
        half = kernel // 2
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, kernel, padding=half, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.third = nn.Conv2d(width, width, kernel, stride=2, padding=half)
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        y = torch.relu(self.bn(self.second(torch.relu(self.first(x)))))
        return self.fc(nn.functional.relu6(self.third(y)).mean((2, 3)))


def strided(width=32, kernel=3):
    torch.manual_seed(0)
    network = Strided(width, kernel)
    with torch.no_grad():
        network.bn.running_mean.normal_()
        network.bn.running_var.uniform_(0.5, 2.0)
        for seed, conv in enumerate((network.second, network.third)):
            conv.weight *= offsets_mask(width, conv.kernel_size, seed=seed)
    return network.eval()


EXAMPLE = torch.zeros(1, 3, 24, 20)


def nodes_of(path):
    return {node.name: node for node in onnx.load(path).graph.node}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A strided network and its file of dynamic batch."""
    network = strided()
    path = tmp_path_factory.mktemp("sparse") / "m.onnx"
    return network, exporters.export(network, EXAMPLE, path, batch="dynamic")


@pytest.mark.parametrize("kernel", [3, 5])
def test_strided_layers_become_sparse_and_equal_torch_everywhere(exported, tmp_path, kernel):
    network, file = exported
    if kernel != 3:
        network = strided(kernel=kernel)
        file = exporters.export(network, EXAMPLE, tmp_path / "m.onnx")
    nodes = nodes_of(file.path)
    assert nodes["first"].op_type == "Conv"
    assert [nodes[name].op_type for name in ("second", "third")] == ["SparseConv"] * 2
    assert not any(node.op_type in ("Relu", "Clip") for node in nodes.values() if node.name.startswith("third"))
    report = verify(network, file.path, batches=(1, 3))
    assert report.passed
    assert report.relative_error < 1e-5
    assert len(report.paths) == 1 + sum(isa.built and isa.supported for isa in runtime.isas())


def test_the_file_says_what_became_of_each_layer(exported):
    network, file = exported
    about = read_metadata(onnx.load(file.path))["sparse"]
    assert list(about) == ["second", "third"] == [form.layer for form in file.forms]
    for name, form in zip(about, file.forms, strict=True):
        live = int((getattr(network, name).weight != 0).any(0).sum())
        assert about[name]["rows"] == form.rows == live
        assert about[name]["form"] == form.form == "sparse"
        assert any(note.startswith(f"{name}: SparseConv, {live} of {32 * 9} rows alive") for note in file.notes)
    json.dumps(about)


def test_the_library_is_not_needed(exported, tmp_path):
    """Stock ONNX Runtime works the scattered kernels out at load: what it runs is a plain convolution."""
    _, file = exported
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert left <= {"Conv", "FusedConv", "Clip", "ReduceMean", "Gemm"}


def test_choices(exported, tmp_path):
    network, file = exported
    assert "compress.SparseConv" in file.ops
    never = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", sparse="never")
    assert not any(name.startswith("compress.") for name in never.ops)
    assert {form.form for form in never.forms} == {"dense"}
    with pytest.raises(ExportError, match=r"'often'.*auto, always, never"):
        exporters.export(network, EXAMPLE, tmp_path / "m.onnx", sparse="often")
    with pytest.raises(ExportError, match="target onnx"):
        exporters.export(network, EXAMPLE, tmp_path / "m.onnx", sparse="always", target="tensorrt")


def test_layers_that_would_not_gain_stay_dense(tmp_path):
    network = strided()
    with torch.no_grad():
        network.second.weight.normal_()
        network.second.weight[:, 3, 1, 2] = 0.0  # one row of 288
        network.third.weight.normal_()
        network.third.weight[torch.rand(32, 32) < 0.5] = 0.0  # kernels
    file = exporters.export(network, EXAMPLE, tmp_path / "m.onnx")
    few, kernels = file.forms
    assert (few.form, few.rows, few.all_rows) == ("dense", 287, 288)
    assert few.predicted_speedup < 1.1
    assert (kernels.form, kernels.rows) == ("dense", 288)
    assert "every row is read by some output" in kernels.reason
    assert not any(name.startswith("compress.") for name in file.ops)
    assert exporters.export(network, EXAMPLE, tmp_path / "m.onnx", sparse="always").forms[0].form == "sparse"


def test_tensorrt_gets_dense_kernels(tmp_path):
    network = strided()
    file = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", target="tensorrt")  # the lint is part of it
    assert nodes_of(file.path)["second"].op_type == "Conv"
    assert [form.form for form in file.forms] == ["dense", "dense"]


PATTERNS = {
    # live taps, pads, dilations: kernel, pads, dilations that are enough
    "corners": ([(0, 0), (0, 2), (2, 0), (2, 2)], (1, 1, 1, 1), (1, 1), ((2, 2), (1, 1, 1, 1), (2, 2))),
    "centre": ([(1, 1)], (1, 1, 1, 1), (1, 1), ((1, 1), (0, 0, 0, 0), (1, 1))),
    "centre of a dilated kernel": ([(1, 1)], (2, 2, 2, 2), (2, 2), ((1, 1), (0, 0, 0, 0), (1, 1))),
    "middle row": ([(1, 0), (1, 2)], (1, 1, 1, 1), (1, 1), ((1, 2), (0, 1, 0, 1), (1, 2))),
    "two by two": ([(0, 0), (1, 1)], (1, 1, 1, 1), (1, 1), ((2, 2), (1, 1, 0, 0), (1, 1))),
    "no room above": ([(1, 1)], (0, 0, 0, 0), (1, 1), None),
    "room at one end": ([(2, 2)], (2, 0, 0, 1), (1, 1), ((1, 2), (0, 0, 0, 1), (1, 2))),
    "dilated once more": ([(0, 0), (2, 2)], (2, 2, 2, 2), (2, 1), ((2, 2), (2, 2, 2, 2), (4, 2))),
    "every tap": ([(u, v) for u in range(3) for v in range(3)], (1, 1, 1, 1), (1, 1), None),
    "none": ([], (1, 1, 1, 1), (1, 1), None),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("stride", [1, 2])
def test_narrowed_kernels_are_exact(name, stride):
    live, pads, dilations, expected = PATTERNS[name]
    weight = np.zeros((5, 4, 3, 3), np.float32)
    for u, v in live:
        weight[:, :, u, v] = np.random.default_rng(0).normal(size=(5, 4))
    small = narrowed(weight, pads=pads, dilations=dilations)
    if expected is None:
        assert small is None
        return
    assert (small.weight.shape[2:], small.pads, small.dilations) == expected

    def convolved(kernel, borders, steps):
        top, left, bottom, right = borders
        x = nn.functional.pad(
            torch.randn(2, 4, 13, 12, generator=torch.Generator().manual_seed(0)), (left, right, top, bottom)
        )
        return nn.functional.conv2d(x, torch.from_numpy(kernel), stride=stride, dilation=steps)

    torch.testing.assert_close(
        convolved(small.weight, small.pads, small.dilations), convolved(weight, pads, dilations), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_a_pattern_shared_by_a_layer_becomes_a_smaller_convolution(tmp_path, target):
    network = strided()
    corners = torch.zeros(3, 3, dtype=torch.bool)
    corners[::2, ::2] = True
    centre = torch.zeros(3, 3, dtype=torch.bool)
    centre[1, 1] = True
    with torch.no_grad():
        for conv, live in ((network.second, corners), (network.third, centre)):
            conv.weight.normal_().mul_(live)
    file = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", target=target)
    nodes = nodes_of(file.path)
    attributes = {
        name: {a.name: onnx.helper.get_attribute_value(a) for a in nodes[name].attribute}
        for name in ("second", "third")
    }
    assert attributes["second"]["kernel_shape"] == attributes["second"]["dilations"] == [2, 2]
    assert attributes["third"]["kernel_shape"] == [1, 1]
    assert [form.narrowed for form in file.forms] == [(2, 2, 2, 2), (1, 1, 1, 1)]
    assert verify(network, file.path).passed


def random_node(rng):
    """One SparseConv with its function, its torch kernels and lowered form, and an input."""
    channels, outputs = rng.integers(1, 20, size=2).tolist()
    kernel, stride, dilation = (tuple(rng.integers(1, 4, size=2).tolist()) for _ in range(3))
    padding = tuple(rng.integers(0, 3, size=2).tolist())
    mask = torch.from_numpy(rng.random((channels, *kernel)) < 0.5)
    mask[0, 0, 0] = True
    kernels = lower(torch.from_numpy(rng.normal(size=(outputs, channels, *kernel)).astype(np.float32)), mask)
    rows = np.zeros(mask.numel(), bool)
    rows[kernels.places.numpy()] = True
    bias = rng.normal(size=outputs).astype(np.float32)
    constants = {"W": kernels.weight.numpy(), "P": np.packbits(rows, bitorder="little"), "B": bias}
    bounds = [(-opset.FLOAT_MAX, opset.FLOAT_MAX), (0.0, opset.FLOAT_MAX), (-0.5, 0.75)][rng.integers(3)]
    node = onnx.helper.make_node(
        "SparseConv",
        ["X", *constants],
        ["Y"],
        domain="compress",
        kernel_shape=kernel,
        in_channels=channels,
        strides=stride,
        pads=padding * 2,
        dilations=dilation,
        lower=bounds[0],
        upper=bounds[1],
    )
    size = [(k - 1) * d + 1 + int(rng.integers(12)) for k, d in zip(kernel, dilation, strict=True)]
    x = rng.normal(size=(int(rng.integers(1, 4)), channels, *size)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "sparse",
        [value("X", onnx.TensorProto.FLOAT, ["N", channels, None, None])],
        [value("Y", onnx.TensorProto.FLOAT, ["N", outputs, None, None])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    version = int(rng.choice([opset.MIN_ONNX_OPSET, opset.ONNX_OPSET, opset.MAX_ONNX_OPSET]))
    imports = [onnx.helper.make_opsetid("", version), onnx.helper.make_opsetid("compress", 1)]
    model = attach_functions(onnx.helper.make_model(graph, opset_imports=imports, ir_version=opset.IR_VERSION))
    onnx.checker.check_model(model, full_check=True)
    y = lowered_conv2d(torch.from_numpy(x), kernels, stride=stride, padding=padding, dilation=dilation)
    return model, x, np.clip(y.numpy() + bias[:, None, None], *np.float32(bounds))


@pytest.mark.parametrize("seed", range(12))
def test_body_and_native_kernels_equal_the_lowered_product(tmp_path, seed):
    model, x, expected = random_node(np.random.default_rng(seed))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    sessions = {"stock": runtime.Session(path, stock=True)}
    sessions |= {isa.name: runtime.Session(path, isa=isa.name) for isa in runtime.isas() if isa.built and isa.supported}
    for name, session in sessions.items():
        assert session.isa == (None if name == "stock" else name)
        (y,) = session.run([x])
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()), err_msg=name)


BITS = {None: 32, 5: 8, 4: 4}


@pytest.mark.parametrize("bits", BITS)
def test_the_file_is_as_small_as_the_live_weights(tmp_path, bits):
    network = strided(width=128, kernel=5)
    words = []
    if bits is not None:
        fixed = quantise_all(dict(network.named_parameters()), dict.fromkeys(kernel_names(network), bits), Scheme())
        apply(network, fixed)
        for name, values in fixed.items():
            module = name.rpartition(".")[0]
            words.append(FixedWeight(name, module, values.levels.numpy(), values.step.numpy(), 0, bits))
    live = sum(
        int((conv.weight != 0).any(0).sum()) * conv.out_channels
        for conv in (network.first, network.second, network.third)
    )
    live += network.fc.weight.numel()
    file = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", fixed_point=words)
    width = BITS[bits] / 8
    assert "compress.SparseConv" in file.ops
    assert live * width <= file.file_bytes <= 1.05 * live * width
    assert verify(network, file.path, tolerance=1e-4).passed
    for node in inspect_onnx(file.path).nodes:
        if node.op == "compress.SparseConv":
            assert node.method == "sparse" + {None: "", 5: "+int8", 4: "+int4"}[bits]


def test_inspection_counts_the_rows_that_exist(exported):
    network, file = exported
    node = {node.name: node for node in inspect_onnx(file.path).nodes}["third"]
    rows = int((network.third.weight != 0).any(0).sum())
    assert node.macs == 32 * rows * 12 * 10
    assert node.density == rows / (32 * 9)
    assert node.parameters == 32 * rows + 32
    assert (node.channels_in, node.channels_out, node.method) == (32, 32, "sparse")


def test_the_rule_grows_with_what_is_absent():
    sizes = {"outputs": 64, "channels": 64, "all_rows": 576}
    gains = [predicted_speedup(rows=rows, pixels=784, **sizes) for rows in (576, 400, 288, 100)]
    assert gains == sorted(gains)
    assert gains[0] < 1.0 < gains[2]
    assert predicted_speedup(rows=288, pixels=None, **sizes) > predicted_speedup(rows=288, pixels=4, **sizes)
