import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_networks as tiny
import torch
from torch import nn

import exporters
from exporters import ExportError, opset
from exporters.verify import verify

EXAMPLE = torch.zeros(1, 3, 12, 10)

NETWORKS = {
    "chain": lambda: tiny.with_fbs(tiny.settled(tiny.Chain())),
    "chain, all win": lambda: tiny.with_fbs(tiny.settled(tiny.Chain()), density=1.0),
    "chain, tied": lambda: tiny.with_fbs(tiny.settled(tiny.Chain()), spread=0.0, form="released"),
    "chain, blocks": lambda: tiny.with_fbs(tiny.settled(tiny.Chain()), winner_block=5),
    "residual": lambda: tiny.with_fbs(tiny.settled(tiny.Residual())),
    "inverted": lambda: tiny.with_fbs(tiny.settled(tiny.Inverted())),
    "inverted, blocks": lambda: tiny.with_fbs(tiny.settled(tiny.Inverted()), winner_block=4, normalize=True),
    "dense chain": lambda: tiny.settled(tiny.Chain()),
}
CASES = [
    ("chain", 1),
    ("chain", "dynamic"),
    ("chain, all win", 1),
    ("chain, tied", 8),
    ("chain, blocks", 1),
    ("chain, blocks", "dynamic"),
    ("residual", 1),
    ("residual", "dynamic"),
    ("inverted", 1),
    ("inverted", "dynamic"),
    ("inverted, blocks", 3),
    ("dense chain", "dynamic"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    done = {}

    def export(name, batch):
        if (name, batch) not in done:
            network = NETWORKS[name]()
            path = folder / f"{name} {batch}.onnx"
            done[name, batch] = network, exporters.export(network, EXAMPLE, path, batch=batch)
        return done[name, batch]

    return export


def nodes(result):
    return onnx.load(result.path).graph.node


def counts(result):
    return collections.Counter(node.op_type for node in nodes(result))


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_file_equals_torch(exported, name, batch):
    network, result = exported(name, batch)
    assert result.max_difference <= 1e-4
    assert result.file_bytes == result.path.stat().st_size
    generator = np.random.default_rng(7)
    images = {"images": generator.normal(size=(8, 3, 12, 10)).astype(np.float32)}
    report = verify(network, result.path, images, batches=(1, 8))
    assert report.passed
    assert report.top1_agreement == 1.0
    assert report.near_ties == 0


def test_chain_stays_packed_between_layers(exported):
    _, result = exported("chain", 1)
    assert counts(result) == collections.Counter({"FBSConv": 3, "ToNHWC": 1, "MaxPoolNHWC": 1, "Linear": 1})
    assert result.ops == (
        "compress.FBSConv",
        "compress.Linear",
        "compress.MaxPoolNHWC",
        "compress.ToNHWC",
    )
    by_name = {node.name: node for node in nodes(result)}
    assert list(by_name["features.3"].input[:2]) == ["features.0", "features.0.winners"]
    assert by_name["features.8"].input[1] == "features.3.winners"
    clamps = {a.name: a.f for a in by_name["features.8"].attribute if a.name in ("lower", "upper")}
    assert clamps == {"lower": 0.0, "upper": 6.0}


def test_depthwise_convolutions_stay_packed(exported):
    _, result = exported("inverted", 1)
    found = counts(result)
    assert (found["FBSConvDepthwise"], found["DepthwiseConv"], found["Conv"]) == (2, 0, 0)
    assert found["Unpack"] == 0  # the residual sum reads the stem packed
    assert (found["ReduceMean"], found["Linear"]) == (0, 1)
    by_name = {node.name: node for node in nodes(result)}
    assert list(by_name["block1.6"].input[:2]) == ["block1.0", "block1.0.winners"]
    assert [name.rpartition(".")[2] for name in by_name["block1.0"].input[2:]] == [
        *("weight", "shift", "saliency_weight", "saliency_bias", "depthwise_weight", "depthwise_bias", "", "", "means")
    ]
    assert [name.rpartition(".")[2] for name in by_name["block1.6"].input[2:]] == [
        *("weight", "shift", "saliency_weight", "saliency_bias", "", "left_out", "means")
    ]
    assert by_name["block1.6"].input[-1] == "block1.0.means"


def test_residual_sum_is_formed_in_nhwc_and_read_dense(exported):
    _, result = exported("residual", 1)
    assert counts(result) == collections.Counter(
        {"FBSConv": 6, "UnpackAdd": 2, "ToNHWC": 1, "Transpose": 1, "MaxPoolNHWC": 1}
        | {"ReduceMean": 1, "Squeeze": 1, "Gemm": 1}
    )
    by_name = {node.name: node for node in nodes(result)}
    after_sum = by_name["layer2.conv1"]
    assert list(after_sum.input[:2]) == ["layer1.relu/Relu_2", "channels.8"]
    assert list(after_sum.input[6:]) == ["", "", "layer1.relu/Relu_2.means"]
    assert by_name["layer1.conv2"].input[1] == "layer1.conv1.winners"


def test_all_winners_need_no_unpack(exported):
    _, result = exported("chain, all win", 1)
    assert "Unpack" not in counts(result)


def test_dense_network_is_standard_ops_with_batch_norm_folded(exported):
    _, result = exported("dense chain", "dynamic")
    model = onnx.load(result.path)
    assert not model.functions
    assert [entry.domain for entry in model.opset_import] == [""]
    assert counts(result) == collections.Counter(
        {"Conv": 3, "Relu": 2, "Clip": 1, "MaxPool": 1, "ReduceMean": 1, "Reshape": 1, "Gemm": 1}
    )
    assert [node.name for node in model.graph.node if node.op_type == "Conv"] == [
        "features.0",
        "features.3",
        "features.8",
    ]


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_file_is_self_contained_and_clean(exported, name, batch):
    _, result = exported(name, batch)
    model = onnx.load(result.path)
    onnx.checker.check_model(model, full_check=True)
    assert {(node.op_type, node.overload) for node in model.graph.node if node.domain} == {
        (function.name, function.overload) for function in model.functions
    }
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    text = str(model)
    assert "#" not in "".join(names)
    assert "pkg.torch" not in text
    assert ".py" not in text
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == ("batch" if batch == "dynamic" else "")


@pytest.mark.parametrize(("name", "batch"), [("chain", 1), ("chain", "dynamic"), ("residual", 1)])
def test_stock_runtime_leaves_no_transpose(exported, tmp_path, name, batch):
    _, result = exported(name, batch)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(result.path), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath)
    assert "Transpose" not in [node.op_type for node in optimized.graph.node]


def test_same_network_gives_same_bytes(exported, tmp_path):
    network, result = exported("residual", "dynamic")
    again = exporters.export(network, EXAMPLE, tmp_path / "again.onnx", batch="dynamic")
    assert again.path.read_bytes() == result.path.read_bytes()


def test_metadata_is_written(tmp_path):
    network = nn.Sequential(*tiny.block(3, 8)).train()
    given = {"method": "none", "trained": False, "preprocessing": {"mean": [0.5], "std": [0.25]}, "accuracy": None}
    result = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", metadata=given)
    assert all(module.training for module in network.modules())
    written = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    assert written.pop("compress.version")
    assert written == {
        "compress.macs": str(8 * 3 * 9 * 12 * 10),
        "compress.method": "none",
        "compress.preprocessing": '{"mean": [0.5], "std": [0.25]}',
        "compress.target": "onnx",
        "compress.trained": "false",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


class Shifty(nn.Module):
    """Gives other numbers at every call, so no file can agree with it."""

    def forward(self, x):
        if torch.compiler.is_compiling():
            return x
        return x + torch.rand(1)


def test_disagreement_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"m\.onnx was not written: on stock with inputs .* allowed is 1e-04"):
        exporters.export(Shifty(), EXAMPLE, path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_compare_is_said(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Endless())
    with pytest.raises(ExportError, match=r"was not written: torch's own outputs are not finite"):
        exporters.export(network, EXAMPLE, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class Endless(nn.Module):
    def forward(self, x):
        return x / (x - x)


class Sorting(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x)


def test_untranslatable_network_is_one_line(tmp_path):
    with pytest.raises(ExportError, match="torch cannot export this network: ") as caught:
        exporters.export(Sorting(), torch.zeros(1, 3, 4, 4), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def broken(value=None, dtype=None):
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    if value is not None:
        network[0].weight.data[0] = value
    return network.to(dtype)


@pytest.mark.parametrize(
    ("network", "example", "message"),
    [
        (broken(value=float("nan")), EXAMPLE, r"weights with NaN or infinity: 0\.weight; train"),
        (broken(dtype=torch.float16), EXAMPLE, r"not float32: 0\.bias, 0\.weight; call model\.float"),
        (broken(), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"the example is torch\.uint8 of shape"),
    ],
)
def test_unfit_network_is_refused(tmp_path, network, example, message):
    with pytest.raises(ExportError, match=message):
        exporters.export(network, example, tmp_path / "m.onnx")


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="batch=0; allowed are"):
        exporters.export(broken(), EXAMPLE, tmp_path / "m.onnx", batch=0)
    with pytest.raises(ExportError, match="unknown target 'tflite'; choose from: onnx"):
        exporters.export(broken(), EXAMPLE, tmp_path / "m.onnx", target="tflite")
    with pytest.raises(ExportError, match="its folder does not exist"):
        exporters.export(broken(), EXAMPLE, tmp_path / "nowhere" / "m.onnx")


def test_opset_is_a_choice(tmp_path):
    network = tiny.with_fbs(nn.Sequential(*tiny.block(3, 8)))
    result = exporters.export(network, EXAMPLE, tmp_path / "m.onnx", opset=18)
    model = onnx.load(result.path)
    assert (result.opset, model.opset_import[0].version) == (18, 18)
    assert {entry.version for function in model.functions for entry in function.opset_import} == {18}
    assert opset.ONNX_OPSET != 18
    with pytest.raises(ExportError, match="opset 17 is not supported; choose 18 to 26"):
        exporters.export(network, EXAMPLE, tmp_path / "old.onnx", opset=17)
