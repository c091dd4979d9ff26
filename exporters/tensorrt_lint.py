"""Says, before a GPU is at hand, what TensorRT's ONNX parser would refuse: node by node, from a table of facts.

The table (`tensorrt_ops.toml`, with its release and source) holds op names, element types and restrictions. Rules:

1. The opset lies in the parser's range.
2. Every op is in the table, of the standard domain, and its first data input has a type that the op takes.
3. Attributes and constant inputs are as the table has them; zero points of Q/DQ are 0; k of TopK is below the limit.
4. int64 is for shapes and indices: no arithmetic on it unless every operand comes from shapes and constants.
5. Shapes are fixed; only the first dimension of the inputs may be open (one optimisation profile).
"""

import contextlib
import functools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from exporters.nodes import attributes_of
from exporters.store import skeleton

__all__ = ["lint_tensorrt", "tensorrt_table"]

_ARITHMETIC = frozenset(
    [
        *("Abs", "Add", "CumSum", "Div", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Pow", "Sub", "Sum", "TopK"),
        *("ArgMax", "ArgMin", "MatMul", "Gemm", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"),
    ]
)
# Where the data stands that decides about types, if not first.
_DATA_INPUT = {"Where": 1, "If": None, "Loop": None, "Range": 0, "Constant": None, "ConstantOfShape": None}


@functools.cache
def tensorrt_table() -> dict[str, Any]:  # Any: values of a TOML file
    """The facts of `tensorrt_ops.toml`; do not change what it returns."""
    table = tomllib.loads((files("exporters") / "tensorrt_ops.toml").read_text(encoding="utf-8"))
    table["group_of"] = {name: group for group, names in table["ops"].items() for name in names}
    return table


@dataclass(frozen=True)
class _Graph:
    """What the rules look things up in: element types, shapes, constants, and what follows from shapes alone."""

    types: dict[str, int]
    shapes: dict[str, tuple[int | str | None, ...]]
    constants: dict[str, TensorProto]
    from_shapes: set[str]


def lint_tensorrt(model: ModelProto) -> list[str]:
    """Returns one line per problem, naming node and op; an empty list is what TensorRT's parser takes.

    Args:
        model: Checked by ONNX's checker before, without local functions.
    """
    table = tensorrt_table()
    version = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    problems = []
    if not table["oldest_opset"] <= version <= table["newest_opset"]:
        problems.append(
            f"opset {version} is outside {table['oldest_opset']} to {table['newest_opset']}, which TensorRT "
            f"{table['parser_release']} takes"
        )
    graph = _graph(model)
    problems += list(_open_inputs(model))
    static = all(isinstance(size, int) for value in model.graph.input for size in graph.shapes.get(value.name, ()))
    for node in _all_nodes(model.graph):
        where = f"node '{node.name}' ({node.domain + '.' if node.domain else ''}{node.op_type}): "
        problems += [where + problem for problem in _problems(node, graph, static=static)]
    return problems


def _problems(node: NodeProto, graph: _Graph, *, static: bool) -> Iterator[str]:
    table = tensorrt_table()
    group = table["group_of"].get(node.op_type)
    if node.domain or group is None:
        yield f"not an op of TensorRT's table (release {table['table_release']})"
        return
    allowed = table["types"][group]
    place = _DATA_INPUT.get(node.op_type, 0)
    if place is not None and place < len(node.input):
        name = _type_name(graph.types.get(node.input[place], 0))
        if name is not None and name not in allowed:
            yield f"its input has type {name}; allowed are {', '.join(allowed)}"
    attributes = attributes_of(node)
    for key, values in table["attributes"].get(node.op_type, {}).items():
        value = attributes.get(key, values[0])
        value = value.decode() if isinstance(value, bytes) else value
        if value not in values:
            yield f"{key} is {value}; allowed: {', '.join(map(str, values))}"
    for position in table["constant_inputs"].get(node.op_type, []):
        if position < len(node.input) and node.input[position] and node.input[position] not in graph.constants:
            yield f"input {position} is computed; it must be an initializer"
    yield from _limits(node, attributes, graph)
    yield from _quantization(node, graph)
    yield from _int64(node, graph)
    if static:
        for name in node.output:
            shape = graph.shapes.get(name)
            if name and (shape is None or not all(isinstance(size, int) for size in shape)):
                yield "the shape of its output depends on values; TensorRT needs it fixed"


def _limits(node: NodeProto, attributes: dict[str, Any], graph: _Graph) -> Iterator[str]:  # Any: ONNX attributes
    limits = tensorrt_table()["limits"]
    if node.op_type in limits["undilated"] and any(step != 1 for step in attributes.get("dilations", [])):
        yield f"dilations {list(attributes['dilations'])}; only ones are allowed"
    if node.op_type in limits["one_output"] and len([name for name in node.output if name]) > 1:
        yield "has more outputs than the first, which alone is allowed"
    if node.op_type in limits["planes"] and len(graph.shapes.get(node.input[0], (0,) * 4)) not in (4, 5):
        yield "pools other than two or three dimensions"
    if node.op_type == "TopK" and node.input[1] in graph.constants:
        count = int(numpy_helper.to_array(graph.constants[node.input[1]]).item())
        if count >= tensorrt_table()["topk_limit"]:
            yield f"k is {count}; it must be below {tensorrt_table()['topk_limit']}"


def _quantization(node: NodeProto, graph: _Graph) -> Iterator[str]:
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3 or not node.input[2]:
        return
    zero_point = graph.constants.get(node.input[2])
    if zero_point is None or np.any(numpy_helper.to_array(zero_point)):
        yield "its zero point is not 0; quantise symmetrically"
    elif zero_point.data_type == TensorProto.UINT8:
        yield "quantises to UINT8; TensorRT takes INT8"


def _int64(node: NodeProto, graph: _Graph) -> Iterator[str]:
    place = node.input[0] if node.input else ""
    if node.op_type not in _ARITHMETIC or graph.types.get(place) != TensorProto.INT64:
        return
    if not all(name in graph.from_shapes for name in node.input if name):
        yield "computes with int64 values that come from the input; int64 is for shapes and indices"


def _open_inputs(model: ModelProto) -> Iterator[str]:
    held = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in held and any(not dim.dim_value for dim in list(dims)[1:]):
            yield f"input '{value.name}' leaves more than its first dimension open; fix the others"


def _graph(model: ModelProto) -> _Graph:
    inferred = model
    with contextlib.suppress(onnx.shape_inference.InferenceError):  # what the file itself states still serves
        inferred = onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True)
    types, shapes = {}, {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
            )
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    types.update({name: tensor.data_type for name, tensor in constants.items()})
    shapes.update({name: tuple(tensor.dims) for name, tensor in constants.items()})
    from_shapes = set(constants)
    for node in model.graph.node:  # ONNX files are in topological order
        if node.op_type in ("Shape", "Size") or all(name in from_shapes for name in node.input if name):
            from_shapes.update(node.output)
    return _Graph(types, shapes, constants, from_shapes)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _type_name(elem_type: int) -> str | None:
    """ONNX's name of an element type; None where it is not known."""
    return TensorProto.DataType.Name(elem_type) if elem_type else None
