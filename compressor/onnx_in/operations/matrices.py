"""Gemm and MatMul: a linear layer where one side is a constant matrix."""

from collections.abc import Callable

import numpy as np

from compressor.onnx_in.reader import Array, Node, Reader

__all__ = ["MATRIX_RULES"]


def _gemm(reader: Reader, node: Node) -> None:
    """Y = alpha · A · B + beta · C, the factors taken into the weights."""
    if node.get("transA", 0) or not reader.is_constant(node.inputs[1]):
        raise node.refuse("multiplies two values that depend on the image; Gemm can be read with a constant second one")
    weight, bias = reader.constant(node, 1), reader.constant(node, 2)
    assert weight is not None
    weight = _times(weight if node.get("transB", 0) else weight.T, node.get("alpha", 1.0))
    if bias is not None:
        if bias.size not in (1, weight.shape[0]):
            raise node.refuse(f"adds a constant of shape {bias.shape} to {weight.shape[0]} outputs")
        bias = _times(np.broadcast_to(bias.reshape(-1), weight.shape[:1]), node.get("beta", 1.0))
    linear(reader, node, weight, bias, weight_name=node.inputs[1])


def _times(values: Array, factor: float) -> Array:
    return values if factor == 1.0 else np.asarray(values * np.float32(factor))


def _matmul(reader: Reader, node: Node) -> None:
    left, right = node.inputs
    matrix = reader.constants.get(reader.resolved(right))
    if matrix is not None and matrix.ndim == 2:
        linear(reader, node, matrix.T, None, weight_name=right)
        return
    reader.function(node, "matmul", [reader.operand(left, rank=-1), reader.operand(right, rank=-1)])


def linear(
    reader: Reader, node: Node, weight: Array, bias: Array | None, *, weight_name: str, source: str | None = None
) -> None:
    """Adds a linear layer that reads `source`, or else the node's first input; `weight` is (out, in)."""
    settings = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": bias is not None}
    weights = {"weight": weight, **({} if bias is None else {"bias": bias})}
    reader.layer(node, "linear", settings, source=source, weights=weights, weight_name=weight_name)


MATRIX_RULES: dict[str, Callable[[Reader, Node], None]] = {"Gemm": _gemm, "MatMul": _matmul}
