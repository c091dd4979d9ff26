"""Stores weights that our ops read as numbers of 16 bits where nothing is lost.

FBSConv: A (C, K), W (K, C, kh, kw) float32   becomes   float16
Linear: W (C*H*W, K) float32                  becomes   float16
Relu(Gemm(x, W, b)), x (N, C)                 becomes   Linear(Unsqueeze(x), [[0 .. C-1]], W, b, lower=0)

The library reads them as they are; a function body casts them to float32, which a runtime does once, at load.
"""

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.passes.fuse_linear import linear_of_rows
from exporters.surgery import constant_value, fresh_name, is_op, set_input

__all__ = ["store_half_predictors", "store_half_weights"]


def store_half_predictors(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of layers whose predictor became float16.

    1. Saliency weights that float16 holds exactly, all of a layer's: stored so. `compressor.methods.fbs_rounding`
       rounds a network's to such numbers.
    2. Any other, and those stored as bytes: left as they are.
    """
    return sum(_store(graph, node, opset.FBS_CONV, "A") for node in graph.nodes if is_op(node, opset.FBS_CONV))


def store_half_weights(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of layers whose weights became float16.

    1. Weights of FBSConv and Linear that float16 holds exactly, all of a layer's: stored so.
    2. A Gemm behind FBS layers with such weights, on rows of known length: becomes a Linear whose channels are all
       there, since a Gemm does not read float16 together with float32. A Relu that alone reads it is its lower bound.
    3. Any other: left as they are.
    """
    if not any(is_op(node, opset.FBS_CONV) for node in graph.nodes):
        return 0
    found = sum(linear_of_rows(graph, node, lambda rows: _halves(rows) is not None) for node in list(graph.nodes))
    for op in (opset.FBS_CONV, opset.LINEAR):
        found += sum(_store(graph, node, op, "W") for node in graph.nodes if is_op(node, op))
    graph.cleanup().toposort()
    return found


def _store(graph: gs.Graph, node: gs.Node, op: opset.Op, name: str) -> bool:
    tensor = op.given(node.inputs)[name]
    values = constant_value(tensor)
    assert values is not None  # who made the node has seen to it
    halves = _halves(values) if values.dtype == np.float32 else None
    if halves is None:
        return False
    set_input(node, op, name, gs.Constant(fresh_name(graph, tensor.name), halves))
    return True


def _halves(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float16] | None:
    """The same numbers in 16 bits, or None."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and so another number
        halves = values.astype(np.float16)
    return halves if np.array_equal(halves.astype(values.dtype), values) else None
