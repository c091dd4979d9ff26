"""Moves Unpack towards the outputs, so that packed tensors flow between FBS layers.

f(Unpack(x, i))  becomes  Unpack(f(x), i)   for f that acts per channel and keeps a zero plane zero
FBSConv(Unpack(x, i), all channels)  becomes  FBSConv(x, i)
"""

import numpy as np
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import (
    NCHW_TO_NHWC,
    NHWC_TO_NCHW,
    add_node,
    constant_value,
    fresh_name,
    is_op,
    is_transpose,
    keeps_zero_planes,
    only_consumer,
    reduces_planes,
    transposed,
)

__all__ = ["push_unpack_down", "takes_all"]

_PLANE_REDUCTIONS = frozenset(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"])
_POOLS = frozenset(["MaxPool", "AveragePool", "LpPool"])


def push_unpack_down(graph: gs.Graph) -> int:
    """Changes `graph`, whose FBS layers already meet in NHWC; returns the number of rewrites.

    For every reader of Unpack(x, i):

    1. An elementwise op with f(0) = 0 (Clip where its bounds enclose 0): works on x, Unpack follows it.
    2. A reduction over the plane (axes 1 and 2) that keeps its dimensions: likewise.
    3. A window pool between its pair of transposes: likewise, as a whole.
    4. FBSConv that takes all channels: takes x and i.
    5. Anything else, or an output of the graph: Unpack stays before it.

    An Unpack of all its channels (k = C) changes nothing and goes altogether.
    """
    total = 0
    while changed := sum(_push(graph, node) for node in list(graph.nodes) if is_op(node, opset.UNPACK)):
        total += changed
        graph.cleanup().toposort()
    return total


def _push(graph: gs.Graph, node: gs.Node) -> int:
    if not node.outputs or not node.inputs:
        return 0
    x, indices = node.inputs
    dense = node.outputs[0]
    if x.shape[3] == node.attrs["channels"] and not any(dense is output for output in graph.outputs):
        for reader in list(dense.outputs):
            _replace_input(reader, dense, x)
        node.outputs.clear()
        return 1
    return sum(_push_through(graph, reader, dense, x, indices) for reader in list(dense.outputs))


def _push_through(graph: gs.Graph, reader: gs.Node, dense: gs.Tensor, x: gs.Tensor, indices: gs.Tensor) -> bool:
    if is_op(reader, opset.FBS_CONV):
        if reader.inputs[0] is not dense or not takes_all(reader):
            return False
        reader.inputs[0], reader.inputs[1] = x, indices
        return True
    if reader.domain or not reader.inputs or reader.inputs[0] is not dense:
        return False
    if keeps_zero_planes(reader):
        reader.inputs[0] = x
        _follow(graph, reader, indices)
        return True
    if reader.op in _PLANE_REDUCTIONS:
        return _reduction(graph, reader, x, indices)
    if is_transpose(reader, NHWC_TO_NCHW):
        return _pool(graph, reader, x, indices)
    return False


def _reduction(graph: gs.Graph, reader: gs.Node, x: gs.Tensor, indices: gs.Tensor) -> bool:
    if not reduces_planes(reader):
        return False
    reader.inputs[0] = x
    _follow(graph, reader, indices)
    return True


def _pool(graph: gs.Graph, to_nchw: gs.Node, x: gs.Tensor, indices: gs.Tensor) -> bool:
    """Unpack, ToNCHW, pool, ToNHWC: the pool works on packed planes; other readers of ToNCHW keep theirs."""
    pools = [reader for reader in to_nchw.outputs[0].outputs if reader.op in _POOLS and not reader.domain]
    moved = False
    for pool in pools:
        to_nhwc = only_consumer(graph, pool.outputs[0])
        if to_nhwc is None or not is_transpose(to_nhwc, NCHW_TO_NHWC):
            continue
        pool.inputs[0] = transposed(graph, x, NHWC_TO_NCHW)
        for tensor in (pool.outputs[0], to_nhwc.outputs[0]):
            tensor.shape = _with_channels(tensor.shape, x.shape[3], axis=1 if tensor is pool.outputs[0] else 3)
        _follow(graph, to_nhwc, indices, channels=to_nchw.inputs[0].inputs[0].attrs["channels"])
        moved = True
    return moved


def _follow(graph: gs.Graph, node: gs.Node, indices: gs.Tensor, channels: int | None = None) -> None:
    """Puts an Unpack behind `node`, whose old output tensor is now the Unpack's, under its old name."""
    output = node.outputs[0]
    live = indices.shape[1]
    dense_shape = _with_channels(output.shape, channels or output.shape[3], axis=3)
    inner = gs.Variable(fresh_name(graph, node.name), output.dtype, _with_channels(output.shape, live, axis=3))
    node.outputs = [inner]
    output.shape = dense_shape
    add_node(
        graph,
        opset.UNPACK.name,
        [inner, indices],
        name=f"{node.name}/Unpack",
        domain=opset.DOMAIN,
        attrs={"channels": int(dense_shape[3])},
        outputs=[output],
    )


def _with_channels(shape: list[int | str], channels: int | str, *, axis: int) -> list[int | str]:
    return [channels if position == axis else size for position, size in enumerate(shape)]


def takes_all(node: gs.Node) -> bool:
    """True if FBSConv reads every channel: its I is the constant [[0 .. C-1]]."""
    indices, channels = constant_value(node.inputs[1]), node.inputs[2].shape[1]
    return indices is not None and np.array_equal(indices, np.arange(channels)[None])


def _replace_input(reader: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    for position, tensor in enumerate(reader.inputs):
        if tensor is old:
            reader.inputs[position] = new
