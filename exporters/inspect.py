"""Counts what an ONNX file computes and holds, node by node; needs onnx and numpy only.

Multiply-accumulates (MACs) for one sample:

    Conv             K * C/groups * kh * kw * H' * W'
    Gemm, MatMul     rows * inner * columns
    Linear           Cx * H * W * K, with average Cx * K
    FBSConv          k * Cx * kh * kw * H' * W'  +  Cx * k  +  K * H' * W'
    DepthwiseConv    Cx * kh * kw * H' * W'
    FBSConvDepthwise  those of both
    SparseConv       K * R * H' * W'

The FBS terms are the convolution over live inputs and winners, the predictor, and the scaling, as the
published counter has them (specs of Feature Boosting and Suppression: M-CifarNet at density 0.5 is 44.24 M);
FBSConvInt8 and FBSConvDepthwiseInt8 count as the ops on floats. Cx is what the node really reads: all C channels behind
a residual sum. Pooling, activations and sums count nothing.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporters import opset
from exporters.load import load_onnx
from exporters.metadata import read_metadata
from exporters.nodes import attributes_of, is_op
from exporters.store import skeleton

__all__ = ["NodeReport", "OnnxReport", "inspect_model", "inspect_onnx"]


@dataclass(frozen=True)
class NodeReport:
    """One node.

    Attributes:
        name: After the network's module.
        op: `compress.` in front of our own.
        macs: For one sample; None where a plane's size is not in the file.
        parameters: Numbers in its float or quantised constants.
        weight_bytes: What these constants take in the file.
        channels_in: That it reads.
        channels_out: That it computes.
        density: k/K of an FBS layer, R/(C * kh * kw) of a SparseConv: the part of its rows that exists.
        method: `fbs`, `sparse`, and `int8` or `int4` for weights that are stored as integers, joined by +; None for
            plain nodes.
    """

    name: str
    op: str
    macs: int | None
    parameters: int
    weight_bytes: int
    channels_in: int | None
    channels_out: int | None
    density: float | None
    method: str | None = None


@dataclass(frozen=True)
class OnnxReport:
    """A whole file; `macs` is None if a node's is not known."""

    path: str
    opset: int
    nodes: tuple[NodeReport, ...]
    macs: int | None
    parameters: int
    weight_bytes: int
    file_bytes: int
    metadata: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """Plain values with units in the names."""
        return dataclasses.asdict(self)


def inspect_onnx(path: str | Path) -> OnnxReport:
    """Returns the report of an ONNX file.

    Raises:
        ExportError: the file is missing, damaged, or holds what nobody could run, see `load_onnx`.
    """
    return inspect_model(load_onnx(path), path)


def inspect_model(model: ModelProto, path: str | Path) -> OnnxReport:
    """Returns the report of a model in memory; `path` is where it lies or will lie."""
    shapes = _shapes(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    stored = _stored_weights(model, weights)
    densities = _spelled_out_densities(model, weights, shapes)
    steps = {name for names in stored.values() for name in names[1:]}
    steps.update(_product_scales(model))
    whole, fbs_steps = _bytes_of_fbs(model, weights)
    steps.update(fbs_steps)
    counted: set[str] = set()
    nodes = []
    for node in model.graph.node:
        names = [] if node.output[0] in stored else [part for name in node.input for part in stored.get(name, (name,))]
        own = [weights[name] for name in names if name in weights and name not in counted]
        counted.update(tensor.name for tensor in own)
        integers = {stored[name][0] for name in node.input if name in stored} | whole
        if node.op_type in _INTEGER_WEIGHTS:
            integers.add(node.input[_INTEGER_WEIGHTS[node.op_type]])
        nodes.append(_report(node, own, shapes, integers=integers, steps=steps, density=densities.get(node.name)))
    all_macs = [node.macs for node in nodes]
    file = Path(path)
    return OnnxReport(
        path=str(path),
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        nodes=tuple(nodes),
        macs=None if None in all_macs else sum(macs for macs in all_macs if macs is not None),
        parameters=sum(node.parameters for node in nodes),
        weight_bytes=sum(node.weight_bytes for node in nodes),
        file_bytes=file.stat().st_size if file.is_file() else model.ByteSize(),
        metadata=read_metadata(model),
    )


Shapes = dict[str, tuple[int | None, ...]]


def _shapes(model: ModelProto) -> Shapes:
    """Every tensor's shape as far as it is known; None for open sizes."""
    with contextlib.suppress(onnx.shape_inference.InferenceError):  # what the file itself states still serves
        model = onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True)
    found: Shapes = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
    found.update({tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer})
    return found


def _stored_weights(model: ModelProto, weights: Mapping[str, TensorProto]) -> dict[str, tuple[str, ...]]:
    """What DequantizeLinear, or Cast and Mul, make of constants -> these constants: they are the reading node's."""
    found: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        names = [name for name in node.input if name]
        constant = bool(names) and all(name in weights for name in names)
        if node.op_type == "DequantizeLinear" and constant:
            found[node.output[0]] = tuple(names)
        elif node.op_type == "Cast" and constant and weights[names[0]].data_type in _STORED:
            found[node.output[0]] = (names[0],)
        elif node.op_type == "Mul" and names[0] in found and names[1] in weights:
            found[node.output[0]] = (*found[names[0]], names[1])
    return found


def _bytes_of_fbs(model: ModelProto, weights: Mapping[str, TensorProto]) -> tuple[set[str], set[str]]:
    """What of FBS layers and Linears is whole numbers that stand for floats, and their steps."""
    whole: set[str] = set()
    steps: set[str] = set()
    for node in model.graph.node:
        if is_op(node, *opset.FBS_LAYERS, opset.LINEAR):
            given = opset.OPS[node.op_type].given(node.input)
            numbers, their_steps = _WHOLE_NUMBERS[node.op_type]
            names = [given[name] for name in numbers if name in given]
            whole.update(name for name in names if name in weights and weights[name].data_type not in _FLOATS)
            steps.update(given[name] for name in their_steps if given.get(name))
    return whole, steps


def _product_scales(model: ModelProto) -> set[str]:
    """Constants that the sums of a MatMulInteger are multiplied by: steps, and no parameters."""
    found = {node.output[0] for node in model.graph.node if node.op_type == "MatMulInteger"}
    found |= {node.output[0] for node in model.graph.node if node.op_type == "Cast" and node.input[0] in found}
    return {node.input[1] for node in model.graph.node if node.op_type == "Mul" and node.input[0] in found}


def _spelled_out_densities(
    model: ModelProto, weights: Mapping[str, TensorProto], shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, float]:
    """Name of each FBS layer in standard ops (`passes.spell_out_fbs`) -> k/K."""
    found = {}
    for node in model.graph.node:
        if node.op_type == "TopK" and node.name.endswith(opset.WINNERS) and node.input[1] in weights:
            channels = shapes.get(node.input[0], (None,))[-1]
            if channels:
                winners = int(numpy_helper.to_array(weights[node.input[1]]).item())
                found[node.name.removesuffix(opset.WINNERS)] = winners / channels
    return found


def _report(
    node: NodeProto,
    own: list[TensorProto],
    shapes: Shapes,
    *,
    integers: set[str],
    steps: set[str],
    density: float | None,
) -> NodeReport:
    """`integers` are the constants among `own` that stand for floats, with one of `steps` beside them."""
    attributes = attributes_of(node)
    through = [tensor for tensor in own if tensor.name in integers]
    # int64: indices, axes, shapes.
    plain = [tensor for tensor in own if tensor.data_type in _FLOATS and tensor.name not in steps]
    if node.op_type in _PAIRS:
        plain = []
    domain = f"{node.domain}." if node.domain else ""
    inputs = [shapes.get(name, ()) for name in node.input]
    output = shapes.get(node.output[0], ())
    counts: dict[str, Callable[..., Counted]] = {
        "Conv": _conv,
        "Gemm": _gemm,
        "MatMul": _matmul,
        "MatMulInteger": _matmul,
        opset.FBS_CONV.name: _fbs_conv,
        opset.FBS_CONV_DEPTHWISE.name: partial(_fbs_conv_depthwise, opset.FBS_CONV_DEPTHWISE),
        opset.FBS_CONV_INT8.name: _fbs_conv,
        opset.FBS_CONV_DEPTHWISE_INT8.name: partial(_fbs_conv_depthwise, opset.FBS_CONV_DEPTHWISE_INT8),
        opset.LINEAR.name: _linear,
        opset.DEPTHWISE_CONV.name: _depthwise_conv,
        opset.SPARSE_CONV.name: _sparse_conv,
    }
    count = counts.get(node.op_type)
    macs, channels_in, channels_out = (0, None, None) if count is None else count(inputs, output, attributes)
    is_fbs = is_op(node, *opset.FBS_LAYERS)
    methods = ["fbs"] if density is not None or is_fbs else []
    methods += sorted({_STORED[tensor.data_type] for tensor in through if tensor.data_type in _STORED})
    if is_fbs and inputs[2]:
        density = attributes["winners"] / (inputs[2][0] or 1)
    if is_op(node, opset.SPARSE_CONV):
        methods.insert(0, "sparse")
        if len(inputs[1]) > 1:
            density = (inputs[1][1] or 0) / math.prod((attributes["in_channels"], *attributes["kernel_shape"]))
    return NodeReport(
        name=node.name,
        op=domain + node.op_type,
        macs=macs,
        parameters=sum(math.prod(tensor.dims) for tensor in (*through, *plain)),
        weight_bytes=sum(_bytes(tensor) for tensor in own),
        channels_in=channels_in,
        channels_out=channels_out,
        density=density,
        method="+".join(methods) or None,
    )


_WHOLE_NUMBERS = {
    opset.FBS_CONV.name: ("WA", "PQ"),
    opset.FBS_CONV_DEPTHWISE.name: ("WA", "PQ"),
    opset.FBS_CONV_INT8.name: ("WAE", "SQ"),
    opset.FBS_CONV_DEPTHWISE_INT8.name: ("WAVE", "SQG"),
    opset.LINEAR.name: ("W", "P"),
}
"""What each op calls constants that may be whole numbers, and steps of these."""
_INTEGER_WEIGHTS = {"MatMulInteger": 1}  # which input
_STORED: dict[int, str] = {
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT16: "int16",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
}
_HALF_BYTES = frozenset([TensorProto.INT4, TensorProto.UINT4])
_FLOATS = frozenset([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
_PAIRS = frozenset(["QuantizeLinear", "DequantizeLinear"])


def _bytes(tensor: TensorProto) -> int:
    """What a constant takes in the file; two 4-bit numbers share a byte."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in _HALF_BYTES:
        return (count + 1) // 2
    return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


Counted = tuple[int | None, int | None, int | None]
"""MACs, channels in, channels out."""


def _conv(inputs: list[tuple[int | None, ...]], output: tuple[int | None, ...], _: Mapping[str, object]) -> Counted:
    weight = inputs[1]
    if len(weight) < 3 or len(inputs[0]) < 2:
        return None, None, None
    return _product(*weight, *(output[2:] or (None,))), inputs[0][1], weight[0]


def _gemm(
    inputs: list[tuple[int | None, ...]], output: tuple[int | None, ...], attributes: Mapping[str, object]
) -> Counted:
    if len(inputs[1]) != 2:
        return None, None, None
    inner, columns = reversed(inputs[1]) if attributes.get("transB", 0) else inputs[1]
    return _product(inner, columns), inner, columns


def _matmul(inputs: list[tuple[int | None, ...]], output: tuple[int | None, ...], _: Mapping[str, object]) -> Counted:
    if len(inputs[0]) < 2 or not output:
        return None, None, None
    return _product(*output[1:], inputs[0][-1]), inputs[0][-1], output[-1]


def _linear(
    inputs: list[tuple[int | None, ...]], output: tuple[int | None, ...], attributes: Mapping[str, object]
) -> Counted:
    live = inputs[0][-1] if inputs[0] else None
    terms = (live,) if attributes.get("average", 0) else inputs[0][1:] or (None,)
    return _product(*terms, *(inputs[2][1:] or (None,))), live, (inputs[2] or (None,))[-1]


def _fbs_conv(
    inputs: list[tuple[int | None, ...]], output: tuple[int | None, ...], attributes: Mapping[str, object]
) -> Counted:
    live = inputs[1][-1] if inputs[1] else None
    outputs, _, *taps = inputs[2] or (None, None, None)
    winners = attributes["winners"]
    assert isinstance(winners, int)
    plane = _product(*(output[1:3] or (None,)))
    terms = (_product(winners, live, *taps, plane), _product(live, winners), _product(outputs, plane))
    macs = None if None in terms else sum(term for term in terms if term is not None)
    return macs, live, winners


def _depthwise_conv(
    inputs: list[tuple[int | None, ...]], output: tuple[int | None, ...], _: Mapping[str, object]
) -> Counted:
    live = inputs[1][-1] if inputs[1] else None
    return _product(live, *(inputs[2][2:] or (None,)), *(output[1:3] or (None,))), live, live


def _fbs_conv_depthwise(
    op: opset.Op, inputs: list[tuple[int | None, ...]], output: tuple[int | None, ...], attributes: Mapping[str, object]
) -> Counted:
    # No tensor of the file has the plane between the two.
    between = _convolved(inputs[0][1:3], inputs[2][2:], attributes)
    macs, live, winners = _fbs_conv(inputs, (None, *between), attributes)
    depthwise = _product(winners, *(op.given(inputs)["V"][2:] or (None,)), *(output[1:3] or (None,)))
    return None if macs is None or depthwise is None else macs + depthwise, live, winners


def _convolved(
    plane: tuple[int | None, ...],
    taps: tuple[int | None, ...],
    attributes: Mapping[str, Any],  # Any: ONNX attributes
) -> list[int | None]:
    """The plane that a convolution makes of one; empty where a size is not known."""
    pads, sizes = attributes["pads"], []
    for axis, (size, width) in enumerate(zip(plane, taps, strict=False)):
        if size is None or width is None:
            return []
        rest = size + pads[axis] + pads[axis + 2] - attributes["dilations"][axis] * (width - 1) - 1
        sizes.append(rest // attributes["strides"][axis] + 1)
    return sizes


def _sparse_conv(
    inputs: list[tuple[int | None, ...]], output: tuple[int | None, ...], attributes: Mapping[str, object]
) -> Counted:
    outputs, rows = inputs[1] if len(inputs[1]) > 1 else (None, None)
    channels = attributes["in_channels"]
    assert isinstance(channels, int)
    return _product(outputs, rows, *(output[2:] or (None,))), channels, outputs


def _product(*sizes: int | None) -> int | None:
    return None if None in sizes else math.prod(size for size in sizes if size is not None)
