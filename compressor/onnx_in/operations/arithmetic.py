"""Ops on each value by itself, and between values of the same place."""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from compressor.onnx_in.operations.matrices import linear
from compressor.onnx_in.reader import Node, Reader

__all__ = ["ARITHMETIC_RULES"]

Rule = Callable[[Reader, Node], None]

_CASTS = {
    TensorProto.FLOAT: "float32",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.BOOL: "bool",
}


def _unary(name: str) -> Rule:
    def rule(reader: Reader, node: Node) -> None:
        reader.function(node, name)

    return rule


def _binary(name: str) -> Rule:
    """Of any number of inputs, from the left; a constant of one number is written as that number."""

    def rule(reader: Reader, node: Node) -> None:
        rank = max(len(reader.shape(given)) for given in node.inputs if not reader.is_constant(given))
        total, *others = (reader.operand(given, rank=rank) for given in node.inputs)
        if not others:
            reader.alias(node.outputs[0], node.inputs[0])
        for number, other in enumerate(others, start=1):
            last = number == len(others)
            made = node.outputs[0] if last else reader.fresh(node, str(number))
            total = reader.function(node, name, [total, other], outputs=[made])

    return rule


def _add(reader: Reader, node: Node) -> None:
    """A vector added to what a MatMul has made is the bias of that linear layer."""
    for value, added in (node.inputs[:2], node.inputs[1::-1]):
        bias = reader.constants.get(reader.resolved(added))
        step = reader.steps[-1] if reader.steps else None
        if (
            bias is not None
            and step is not None
            and step.kind == "linear"
            and not step.settings["bias"]
            and step.outputs == (reader.resolved(value),)
            and bias.shape == (step.settings["out_features"],)
            and reader.reads(value) == 1
        ):
            weight = reader.take_back()["weight"].numpy()
            linear(reader, node, weight, bias, weight_name=f"{step.name}.weight", source=str(step.inputs[0]))
            return
    _binary("add")(reader, node)


def _where(reader: Reader, node: Node) -> None:
    reader.function(node, "where", [reader.operand(given) for given in node.inputs])


def _cast(reader: Reader, node: Node) -> None:
    to = node.get("to")
    if to not in _CASTS:
        raise node.refuse(f"makes values of type {TensorProto.DataType.Name(to)}; {', '.join(_CASTS.values())} can be")
    value = reader.values[reader.resolved(node.inputs[0])]
    if str(value.dtype).removeprefix("torch.") == _CASTS[to]:
        reader.alias(node.outputs[0], node.inputs[0])
    else:
        reader.function(node, "cast", to=_CASTS[to])


def _same(reader: Reader, node: Node) -> None:
    """Identity, and Dropout as it is in evaluation."""
    reader.alias(node.outputs[0], node.inputs[0])
    if len(node.outputs) > 1 and node.outputs[1]:
        reader.constants[node.outputs[1]] = np.ones(reader.shape(node.inputs[0]), dtype=bool)


ARITHMETIC_RULES: dict[str, Rule] = {
    **{
        op: _unary(op.lower())
        for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Neg", "Not", "Reciprocal", "Round", "Sign")
    },
    **{op: _unary(op.lower()) for op in ("Sin", "Sqrt")},
    "Add": _add,
    "Sum": _binary("add"),
    "Sub": _binary("sub"),
    "Mul": _binary("mul"),
    "Div": _binary("div"),
    "Pow": _binary("pow"),
    "Max": _binary("maximum"),
    "Min": _binary("minimum"),
    "Greater": _binary("greater"),
    "GreaterOrEqual": _binary("greater_equal"),
    "Less": _binary("less"),
    "LessOrEqual": _binary("less_equal"),
    "Equal": _binary("equal"),
    "And": _binary("and"),
    "Or": _binary("or"),
    "Where": _where,
    "Cast": _cast,
    "Identity": _same,
    "Dropout": _same,
}
