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
from exporters.passes.fuse_linear import factorless, replace_gemm, rows_and_bias
from exporters.surgery import add_node, constant_value, fresh_name, is_op

__all__ = ["store_half_predictors", "store_half_weights"]


def store_half_predictors(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of layers whose predictor became float16.

    1. Saliency weights that float16 holds exactly, all of a layer's: stored so. `compressor.methods.fbs_half` rounds a
       network's to such numbers.
    2. Any other: left as they are.
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
    found = sum(_to_linear(graph, node) for node in list(graph.nodes))
    for op in (opset.FBS_CONV, opset.LINEAR):
        found += sum(_store(graph, node, op, "W") for node in graph.nodes if is_op(node, op))
    graph.cleanup().toposort()
    return found


def _store(graph: gs.Graph, node: gs.Node, op: opset.Op, name: str) -> bool:
    place = [tensor.name for tensor in op.inputs].index(name)
    values = constant_value(node.inputs[place])
    assert values is not None  # who made the node has seen to it
    halves = _halves(values)
    if halves is None or halves.dtype == values.dtype:
        return False
    node.inputs[place] = gs.Constant(fresh_name(graph, node.inputs[place].name), halves)
    return True


def _halves(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float16] | None:
    """The same numbers in 16 bits, or None."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and so another number
        halves = values.astype(np.float16)
    return halves if np.array_equal(halves.astype(values.dtype), values) else None


def _to_linear(graph: gs.Graph, gemm: gs.Node) -> bool:
    if not factorless(gemm):
        return False
    shape, constants = gemm.inputs[0].shape, rows_and_bias(gemm)
    if constants is None or shape is None or len(shape) != 2 or _halves(constants[0].values) is None:
        return False
    channels = constants[0].values.shape[0]
    axes = gs.Constant(fresh_name(graph, f"{gemm.name}.axes"), np.array([1, 2]))
    planes = add_node(
        graph, "Unsqueeze", [gemm.inputs[0], axes], name=f"{gemm.name}/Planes", shape=[shape[0], 1, 1, channels]
    )
    every = gs.Constant(fresh_name(graph, f"{gemm.name}.channels"), np.arange(channels, dtype=np.int64)[None])
    replace_gemm(graph, gemm, planes.outputs[0], every, constants, channels=channels)
    return True
