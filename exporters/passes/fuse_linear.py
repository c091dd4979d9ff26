"""Takes a linear layer behind unpacked planes into one Linear, which reads the weights of live channels alone.

Relu(Gemm(Flatten(ToNCHW(Unpack(x, i))), W, b))         becomes   Linear(x, i, W, b, lower=0)
Gemm(Flatten(MaxPool(ToNCHW(Unpack(x, i)))), W, b)      becomes   Linear(ToNHWC(MaxPool(ToNCHW(x))), i, W, b)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import (
    NCHW_TO_NHWC,
    NHWC_TO_NCHW,
    add_node,
    add_transpose,
    constant_value,
    fresh_name,
    is_op,
    is_transpose,
    maker,
    only_consumer,
    transposed,
)

__all__ = ["fuse_linear", "linear_of_rows"]

# A plane of zeros stays one.
_POOLS = frozenset(["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"])


@dataclass(frozen=True)
class _Source:
    """What a Gemm reads, flattened: an Unpack's planes, through pools, the last one first."""

    unpack: gs.Node
    pools: tuple[gs.Node, ...]
    planes: gs.Tensor  # (N, C, H, W)


def fuse_linear(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of layers fused.

    1. A Gemm with constant weights, without factors, whose data come through Flatten, Reshape or Squeeze to (N, C*H*W),
       any pools, and ToNCHW, from an Unpack with planes of known size: fused. The pools work on packed planes; others
       may read them and the Unpack too.
    2. A Relu that alone reads the Gemm: becomes its lower bound.
    3. Anything else: left as it is.
    """
    fused = 0
    for node in list(graph.nodes):
        source = _source(node)
        constants = None if source is None else _constants(node, source)
        if source is None or constants is None:
            continue
        channels = source.unpack.attrs["channels"]
        _replace_gemm(graph, node, _pooled(graph, source), source.unpack.inputs[1], constants, channels=channels)
        fused += 1
    graph.cleanup().toposort()
    return fused


def linear_of_rows(graph: gs.Graph, gemm: gs.Node, takes: Callable[[npt.NDArray[np.float32]], bool]) -> bool:
    """Puts a Linear whose channels are all there, on planes of one pixel, in the place of a Gemm.

    Only of one without factors, on rows of known length, whose weights (C, K) `takes` says yes to. A Relu that alone
    reads it becomes its lower bound. Returns whether it did.
    """
    if not _factorless(gemm):
        return False
    shape, constants = gemm.inputs[0].shape, _rows_and_bias(gemm)
    if constants is None or shape is None or len(shape) != 2 or not takes(constants[0].values):
        return False
    channels = constants[0].values.shape[0]
    axes = gs.Constant(fresh_name(graph, f"{gemm.name}.axes"), np.array([1, 2]))
    planes = add_node(
        graph, "Unsqueeze", [gemm.inputs[0], axes], name=f"{gemm.name}/Planes", shape=[shape[0], 1, 1, channels]
    )
    every = gs.Constant(fresh_name(graph, f"{gemm.name}.channels"), np.arange(channels, dtype=np.int64)[None])
    _replace_gemm(graph, gemm, planes.outputs[0], every, constants, channels=channels)
    return True


def _factorless(node: gs.Node) -> bool:
    """True for a Gemm of rows as they are, without factors."""
    if node.domain or node.op != "Gemm" or node.attrs.get("transA", 0):
        return False
    return bool(node.attrs.get("alpha", 1.0) == 1.0 and node.attrs.get("beta", 1.0) == 1.0)


def _rows_and_bias(gemm: gs.Node) -> tuple[gs.Constant, gs.Constant] | None:
    """W (C, K) and b (K,) where the weights are constant and the bias fits."""
    weight = constant_value(gemm.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    rows = weight.T if gemm.attrs.get("transB", 0) else weight
    bias = constant_value(gemm.inputs[2]) if len(gemm.inputs) > 2 else np.zeros(rows.shape[1], np.float32)
    if bias is None or bias.shape != (rows.shape[1],):
        return None
    values = [np.ascontiguousarray(value, np.float32) for value in (rows, bias)]
    return gs.Constant(gemm.inputs[1].name, values[0]), gs.Constant(f"{gemm.name}.bias", values[1])


def _replace_gemm(
    graph: gs.Graph,
    gemm: gs.Node,
    packed: gs.Tensor,
    index: gs.Tensor,
    constants: tuple[gs.Constant, gs.Constant],
    *,
    channels: int,
) -> None:
    """Puts a Linear on packed planes in the place of a Gemm, and of a Relu that alone reads it."""
    last, lower = gemm, -opset.FLOAT_MAX
    following = only_consumer(graph, gemm.outputs[0])
    if following is not None and following.op == "Relu" and not following.domain:
        last, lower = following, 0.0
    (output,) = last.outputs
    for constant in constants:
        constant.name = fresh_name(graph, constant.name)
    last.outputs.clear()
    add_node(
        graph,
        opset.LINEAR.name,
        [packed, index, *constants],
        name=gemm.name,
        domain=opset.DOMAIN,
        attrs={"channels": channels, "lower": lower, "average": 0},
        outputs=[output],
    )
    for node in (gemm, last):
        node.outputs.clear()
        node.inputs.clear()


def _source(gemm: gs.Node) -> _Source | None:
    if not _factorless(gemm):
        return None
    flat = maker(gemm)
    if flat is None or flat.domain or flat.op not in ("Flatten", "Reshape", "Squeeze"):
        return None
    pools: list[gs.Node] = []
    node = maker(flat)
    while node is not None and not node.domain and node.op in _POOLS and len(node.outputs) == 1:
        pools.append(node)
        node = maker(node)
    if node is None or not is_transpose(node, NHWC_TO_NCHW):
        return None
    unpack = maker(node)
    if unpack is None or not is_op(unpack, opset.UNPACK):
        return None
    return _Source(unpack, tuple(pools), flat.inputs[0])


def _constants(gemm: gs.Node, source: _Source) -> tuple[gs.Constant, gs.Constant] | None:
    """W (C*H*W, K) and b (K,) where all sizes are known and fit."""
    constants, shape, flat = _rows_and_bias(gemm), source.planes.shape, gemm.inputs[0].shape
    if constants is None or shape is None or flat is None or len(flat) != 2 or flat[0] != shape[0]:
        return None
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    return constants if len(sizes) == 3 and constants[0].values.shape[0] == np.prod(sizes) else None


def _pooled(graph: gs.Graph, source: _Source) -> gs.Tensor:
    """The packed planes after the pools, channels last."""
    packed = source.unpack.inputs[0]
    if not source.pools:
        return packed
    planes = transposed(graph, packed, NHWC_TO_NCHW)
    for pool in reversed(source.pools):
        samples, _, *size = pool.outputs[0].shape
        shape = [samples, packed.shape[3], *size]
        planes = add_node(graph, pool.op, [planes], name=pool.name, attrs=dict(pool.attrs), shape=shape).outputs[0]
    shape = [planes.shape[axis] for axis in NCHW_TO_NHWC]
    return add_transpose(graph, planes, NCHW_TO_NHWC, name=source.pools[0].name, shape=shape).outputs[0]
