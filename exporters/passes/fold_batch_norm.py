"""Folds BatchNormalization into the convolution or linear layer before it.

    y = scale * (conv(x, W) + b - mean) / sqrt(var + eps) + shift
      = conv(x, W * f) + (b - mean) * f + shift,    f = scale / sqrt(var + eps) per output channel

Computed in float64 and rounded once.
"""

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters.surgery import constant_value, fresh_name, only_consumer

__all__ = ["fold_batch_norm"]

_DEFAULT_EPSILON = 1e-5  # ONNX specification of BatchNormalization


def fold_batch_norm(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of batch norms folded.

    1. Conv (any groups) or Gemm with constant weights, whose output only the batch norm reads: folded.
    2. ConvTranspose, weights that are computed, or an output that others read too: left as it is.
    """
    folded = 0
    for node in list(graph.nodes):
        if node.op not in ("Conv", "Gemm") or node.domain:
            continue
        norm = only_consumer(graph, node.outputs[0])
        constants = [constant_value(tensor) for tensor in node.inputs[1:]]
        if norm is None or norm.op != "BatchNormalization" or any(value is None for value in constants):
            continue
        statistics = [constant_value(tensor) for tensor in norm.inputs[1:]]
        if norm.inputs[0] is not node.outputs[0] or any(value is None for value in statistics):
            continue
        _fold(graph, node, norm)
        folded += 1
    graph.cleanup()
    return folded


def _fold(graph: gs.Graph, node: gs.Node, norm: gs.Node) -> None:
    scale, shift, mean, variance = (tensor.values.astype(np.float64) for tensor in norm.inputs[1:])
    factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", _DEFAULT_EPSILON))
    weight = node.inputs[1].values.astype(np.float64)
    bias = node.inputs[2].values.astype(np.float64) if len(node.inputs) > 2 else np.zeros(len(factor))
    if node.op == "Gemm":
        # alpha and beta scale product and bias; in the folded layer both are 1.
        weight, bias = weight * node.attrs.get("alpha", 1.0), bias * node.attrs.get("beta", 1.0)
        node.attrs.pop("alpha", None)
        node.attrs.pop("beta", None)
    output_axis = 1 if node.op == "Gemm" and not node.attrs.get("transB", 0) else 0
    shape = [1] * weight.ndim
    shape[output_axis] = -1
    folded_bias = (np.broadcast_to(bias, factor.shape) - mean) * factor + shift
    node.inputs = [
        node.inputs[0],
        _constant(fresh_name(graph, f"{node.name}.weight"), weight * factor.reshape(shape)),
        _constant(fresh_name(graph, f"{node.name}.bias"), folded_bias),
    ]
    outputs = list(norm.outputs)
    norm.outputs.clear()
    node.outputs = outputs


def _constant(name: str, values: npt.NDArray[np.float64]) -> gs.Constant:
    return gs.Constant(name, np.ascontiguousarray(values, np.float32))
