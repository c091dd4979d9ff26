"""Every op by itself: torch computes what ONNX Runtime does, for any batch and after a trip through JSON."""

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from compressor.onnx_in import build, program_from_json, program_to_json, read_network
from compressor.onnx_in.operations import RULES

# float32 sums in another order, on numbers near 1
TOLERANCE = 1e-5

Weights = dict[str, np.ndarray]


def of(*shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# op -> (body from x (N, 4, 8, 8) to y, constants, opset)
CASES: dict[str, tuple[str, Weights, int]] = {
    "Conv": ("y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b)", {"w": of(6, 4, 3, 3), "b": of(6)}, 21),
    "Conv grouped": ("y = Conv<group=2, dilations=[2,2]>(x, w)", {"w": of(6, 2, 3, 3)}, 21),
    "Conv uneven": ("y = Conv<pads=[0,1,2,1]>(x, w)", {"w": of(6, 4, 3, 3)}, 21),
    "Conv same upper": ('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', {"w": of(6, 4, 3, 3)}, 21),
    "Conv same lower": ('y = Conv<auto_pad="SAME_LOWER">(x, w)', {"w": of(6, 4, 2, 2)}, 21),
    "Conv of int8": (
        "w = DequantizeLinear(q, s) y = Conv(x, w)",
        {"q": np.arange(-72, 72, dtype=np.int8).reshape(4, 4, 3, 3), "s": np.array(0.01, np.float32)},
        21,
    ),
    "ConvTranspose": (
        "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w, b)",
        {"w": of(4, 5, 3, 3), "b": of(5)},
        21,
    ),
    "ConvTranspose grouped": ("y = ConvTranspose<group=2>(x, w)", {"w": of(4, 3, 2, 2)}, 21),
    "BatchNormalization": (
        "y = BatchNormalization<epsilon=0.01>(x, s, b, m, v)",
        {"s": of(4), "b": of(4), "m": of(4), "v": of(4, low=0.5, high=2.0)},
        21,
    ),
    "InstanceNormalization": ("y = InstanceNormalization(x, s, b)", {"s": of(4), "b": of(4)}, 21),
    "GroupNormalization": ("y = GroupNormalization<num_groups=2>(x, s, b)", {"s": of(4), "b": of(4)}, 21),
    "LayerNormalization": ("y = LayerNormalization(x, s, b)", {"s": of(8), "b": of(8)}, 21),
    "LRN": ("y = LRN<size=3, alpha=0.5, bias=2.0>(x)", {}, 21),
    "Gemm": (
        "f = Flatten(x) y = Gemm<transB=1, alpha=0.5, beta=2.0>(f, w, b)",
        {"w": of(5, 256), "b": of(5)},
        21,
    ),
    "Gemm plain": ("f = Flatten(x) y = Gemm(f, w)", {"w": of(256, 5)}, 21),
    "MatMul": ("f = Flatten(x) y = MatMul(f, w)", {"w": of(256, 5)}, 21),
    "MatMul and bias": ("f = Flatten(x) m = MatMul(f, w) y = Add(b, m)", {"w": of(256, 5), "b": of(5)}, 21),
    "MatMul of two": ("t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t)", {}, 21),
    "Relu": ("y = Relu(x)", {}, 21),
    "LeakyRelu": ("y = LeakyRelu<alpha=0.2>(x)", {}, 21),
    "PRelu": ("y = PRelu(x, s)", {"s": of(4, 1, 1)}, 21),
    "PRelu one": ("y = PRelu(x, s)", {"s": of(1)}, 21),
    "Elu": ("y = Elu<alpha=0.5>(x)", {}, 21),
    "Celu": ("y = Celu<alpha=2.0>(x)", {}, 21),
    "Selu": ("y = Selu(x)", {}, 21),
    "Sigmoid": ("y = Sigmoid(x)", {}, 21),
    "HardSigmoid": ("y = HardSigmoid(x)", {}, 21),
    "HardSigmoid of torch": ("y = HardSigmoid<alpha=0.16666667>(x)", {}, 21),
    "HardSwish": ("y = HardSwish(x)", {}, 21),
    "Tanh": ("y = Tanh(x)", {}, 21),
    "Softplus": ("y = Softplus(x)", {}, 21),
    "Softsign": ("y = Softsign(x)", {}, 21),
    "Mish": ("y = Mish(x)", {}, 21),
    "Gelu": ("y = Gelu(x)", {}, 21),
    "Gelu tanh": ('y = Gelu<approximate="tanh">(x)', {}, 21),
    "Clip": ("y = Clip(x, l, h)", {"l": np.array(-0.5, np.float32), "h": np.array(0.7, np.float32)}, 21),
    "Clip 6": ("y = Clip(x, l, h)", {"l": np.array(0, np.float32), "h": np.array(6, np.float32)}, 21),
    "Clip below": ("y = Clip(x, l)", {"l": np.array(0, np.float32)}, 21),
    "Clip old": ("y = Clip<min=-0.5, max=0.5>(x)", {}, 9),
    "Softmax": ("y = Softmax<axis=1>(x)", {}, 21),
    "Softmax old": ("f = Flatten(x) y = Softmax<axis=1>(f)", {}, 11),
    "LogSoftmax": ("y = LogSoftmax<axis=-1>(x)", {}, 21),
    "MaxPool": ("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}, 21),
    "MaxPool uneven": ("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>(x)", {}, 21),
    "MaxPool ceil": ("y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)", {}, 21),
    "AveragePool": ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", {}, 21),
    "AveragePool counted": (
        "y = AveragePool<kernel_shape=[3,3], pads=[0,0,1,1], count_include_pad=1>(x)",
        {},
        21,
    ),
    "AveragePool same": ('y = AveragePool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(x)', {}, 21),
    "GlobalAveragePool": ("y = GlobalAveragePool(x)", {}, 21),
    "GlobalMaxPool": ("y = GlobalMaxPool(x)", {}, 21),
    "ReduceMean": ("y = ReduceMean<keepdims=0>(x, a)", {"a": ints(2, 3)}, 21),
    "ReduceMean old": ("y = ReduceMean<axes=[2,3]>(x)", {}, 13),
    "ReduceSum": ("y = ReduceSum(x, a)", {"a": ints(1)}, 21),
    "ReduceMax": ("y = ReduceMax(x, a)", {"a": ints(1, 2)}, 21),
    "ReduceMin": ("y = ReduceMin(x, a)", {"a": ints(-1)}, 21),
    "ReduceProd": ("y = ReduceProd<keepdims=0>(x, a)", {"a": ints(1, 2)}, 21),
    "ReduceL2": ("y = ReduceL2(x, a)", {"a": ints(1)}, 21),
    "Add": ("y = Add(x, c)", {"c": of(4, 1, 1)}, 21),
    "Add number": ("y = Add(c, x)", {"c": np.array([3.0], np.float32)}, 21),
    "Sum": ("a = Relu(x) b = Tanh(x) y = Sum(x, a, b)", {}, 21),
    "Sub": ("y = Sub(c, x)", {"c": np.array(1.0, np.float32)}, 21),
    "Mul": ("s = Sigmoid(x) y = Mul(x, s)", {}, 21),
    "Div": ("y = Div(x, c)", {"c": of(1, 4, 1, 1, low=1.0, high=2.0)}, 21),
    "Pow": ("y = Pow(x, c)", {"c": np.array(2.0, np.float32)}, 21),
    "Max": ("y = Max(c, x)", {"c": np.array(0.2, np.float32)}, 21),
    "Min": ("t = Neg(x) y = Min(x, t)", {}, 21),
    "Abs": ("y = Abs(x)", {}, 21),
    "Erf": ("y = Erf(x)", {}, 21),
    "Exp": ("y = Exp(x)", {}, 21),
    "Sqrt": ("a = Abs(x) y = Sqrt(a)", {}, 21),
    "Log": ("a = Exp(x) y = Log(a)", {}, 21),
    "Reciprocal": ("a = Exp(x) y = Reciprocal(a)", {}, 21),
    "Floor": ("y = Floor(x)", {}, 21),
    "Ceil": ("y = Ceil(x)", {}, 21),
    "Round": ("y = Round(x)", {}, 21),
    "Sign": ("y = Sign(x)", {}, 21),
    "Sin": ("y = Sin(x)", {}, 21),
    "Cos": ("y = Cos(x)", {}, 21),
    "Where": (
        "c = Greater(x, z) n = Not(c) d = LessOrEqual(x, z) e = And(n, d) y = Where(e, z, x)",
        {"z": np.array(0.1, np.float32)},
        21,
    ),
    "Or": (
        "a = Less(x, z) b = GreaterOrEqual(x, z) e = Or(a, b) y = Where(e, x, z)",
        {"z": np.array(0.1, np.float32)},
        21,
    ),
    "Equal": ("r = Relu(x) e = Equal(r, z) y = Where(e, x, r)", {"z": np.array(0.0, np.float32)}, 21),
    "Cast": ("c = Greater(x, z) f = Cast<to=1>(c) y = Mul(x, f)", {"z": np.array(0.1, np.float32)}, 21),
    "Identity": ("i = Identity(x) y = Relu(i)", {}, 21),
    "Dropout": ("i = Dropout(x) y = Relu(i)", {}, 21),
    "Concat": ("t = Tanh(x) y = Concat<axis=1>(x, t)", {}, 21),
    "Split": ("a, b = Split<axis=1, num_outputs=2>(x) y = Mul(a, b)", {}, 21),
    "Split sizes": ("a, b = Split<axis=1>(x, s) y = Concat<axis=1>(b, a)", {"s": ints(1, 3)}, 21),
    "Slice": (
        "y = Slice(x, s, e, a, t)",
        {"s": ints(1, 0), "e": ints(3, -1), "a": ints(1, 3), "t": ints(1, 2)},
        21,
    ),
    "Slice old": ("y = Slice<starts=[2], ends=[9999], axes=[1]>(x)", {}, 9),
    "Gather": ("y = Gather<axis=1>(x, i)", {"i": ints(3, 0, -3)}, 21),
    "Gather one": ("y = Gather<axis=2>(x, i)", {"i": np.array(1, np.int64)}, 21),
    "GatherND": (
        "t = Transpose<perm=[2,3,0,1]>(x) g = GatherND(t, i) y = Transpose<perm=[1,2,0]>(g)",
        {"i": np.array([[0, 1], [7, 7], [3, 2]], np.int64)},
        21,
    ),
    "Pad": ("y = Pad(x, p, v)", {"p": ints(0, 1, 0, 2, 0, 0, 1, 0), "v": np.array(0.5, np.float32)}, 21),
    "Pad reflect": ('y = Pad<mode="reflect">(x, p)', {"p": ints(0, 0, 1, 2, 0, 0, 1, 0)}, 21),
    "Pad edge": ('y = Pad<mode="edge">(x, p, , a)', {"p": ints(1, 2, 0, 1), "a": ints(2, 3)}, 21),
    "Transpose": ("y = Transpose<perm=[0,2,3,1]>(x)", {}, 21),
    "Squeeze": ("g = GlobalAveragePool(x) y = Squeeze(g, a)", {"a": ints(2, 3)}, 21),
    "Unsqueeze": ("y = Unsqueeze(x, a)", {"a": ints(1, -1)}, 21),
    "Expand": ("g = GlobalAveragePool(x) y = Expand(g, s)", {"s": ints(1, 4, 8, 8)}, 21),
    "Tile": ("y = Tile(x, t)", {"t": ints(1, 2, 1, 1)}, 21),
    "Reshape shuffle": (
        "a = Reshape(x, s) t = Transpose<perm=[0,2,1,3,4]>(a) y = Reshape(t, r)",
        {"s": ints(0, 2, 2, 8, 8), "r": ints(0, -1, 8, 8)},
        21,
    ),
    "Flatten": ("y = Flatten<axis=1>(x)", {}, 21),
    "Reshape by shape": (
        "s = Shape(x) n = Gather(s, z) u = Unsqueeze(n, z1) c = Concat<axis=0>(u, m) y = Reshape(x, c)",
        {"z": np.array(0, np.int64), "z1": ints(0), "m": ints(-1)},
        21,
    ),
    "Resize nearest": (
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , s)',
        {"s": np.array([1, 1, 2, 2], np.float32)},
        21,
    ),
    "Resize linear": (
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , s)',
        {"s": ints(2, 4, 12, 15)},
        21,
    ),
    "Resize half pixel": ('y = Resize<mode="linear">(x, , s)', {"s": np.array([1, 1, 2, 2], np.float32)}, 21),
    "Upsample": ("y = Upsample(x, s)", {"s": np.array([1, 1, 2, 2], np.float32)}, 9),
    "DepthToSpace": ("y = DepthToSpace<blocksize=2>(x)", {}, 21),
    "DepthToSpace CRD": ('y = DepthToSpace<blocksize=2, mode="CRD">(x)', {}, 21),
    "SpaceToDepth": ("y = SpaceToDepth<blocksize=2>(x)", {}, 21),
    "Swish": ("y = Swish(x)", {}, 24),
}


def model(body: str, weights: Weights, opset: int, *, batch: str = "N") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[{batch},4,8,8] x) => (float y) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


def outputs(made: onnx.ModelProto, images: np.ndarray) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


@pytest.mark.parametrize("name", CASES)
def test_torch_computes_what_the_file_does(name: str) -> None:
    made = model(*CASES[name])
    fixed = name == "Resize linear"  # its sizes name the batch
    read = read_network(made if not fixed else model(*CASES[name], batch="2"))
    network = build(program_from_json(json.loads(json.dumps(program_to_json(read.program))))).eval()
    network.load_state_dict(read.state)
    images = 2 * of(2, 4, 8, 8)
    wanted = outputs(made, images)
    with torch.no_grad():
        found = network(torch.from_numpy(images))
        one = network(torch.from_numpy(images[1:]))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_allclose(one.numpy(), wanted[1:], atol=TOLERANCE, rtol=TOLERANCE)


def test_every_rule_has_a_case() -> None:
    used = {node.op_type for body, weights, opset in CASES.values() for node in model(body, weights, opset).graph.node}
    assert set(RULES) <= used
