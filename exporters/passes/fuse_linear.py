"""Takes a linear layer behind unpacked planes into one Linear, which reads the weights of live channels alone.

Relu(Gemm(Flatten(ToNCHW(Unpack(x, i))), W, b))   becomes   Linear(x, i, W, b, lower=0)
"""

import numpy as np
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import NHWC_TO_NCHW, add_node, constant_value, fresh_name, is_transpose, only_consumer

__all__ = ["fuse_linear"]


def fuse_linear(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of layers fused.

    1. A Gemm with constant weights, without factors, whose data come through Flatten or Reshape to (N, C*H*W), and
       ToNCHW, from an Unpack with planes of known size: fused. Others may read the Unpack too.
    2. A Relu that alone reads the Gemm: becomes its lower bound.
    3. Anything else: left as it is.
    """
    fused = 0
    for node in list(graph.nodes):
        unpack = _source(node)
        constants = None if unpack is None else _constants(node, unpack)
        if unpack is None or constants is None:
            continue
        _fuse(graph, node, unpack, constants)
        fused += 1
    graph.cleanup().toposort()
    return fused


def _source(gemm: gs.Node) -> gs.Node | None:
    """The Unpack whose planes a Gemm reads, flattened; None for any other node."""
    if gemm.domain or gemm.op != "Gemm" or gemm.attrs.get("transA", 0) or not gemm.inputs[0].inputs:
        return None
    if gemm.attrs.get("alpha", 1.0) != 1.0 or gemm.attrs.get("beta", 1.0) != 1.0:
        return None
    flat = gemm.inputs[0].inputs[0]
    if flat.domain or flat.op not in ("Flatten", "Reshape") or not flat.inputs[0].inputs:
        return None
    to_nchw = flat.inputs[0].inputs[0]
    if not is_transpose(to_nchw, NHWC_TO_NCHW) or not to_nchw.inputs[0].inputs:
        return None
    unpack = to_nchw.inputs[0].inputs[0]
    return unpack if unpack.domain == opset.DOMAIN and unpack.op == opset.UNPACK.name else None


def _constants(gemm: gs.Node, unpack: gs.Node) -> tuple[gs.Constant, gs.Constant] | None:
    """W (C*H*W, K) and b (K,) where all sizes are known and fit."""
    weight, shape, flat = constant_value(gemm.inputs[1]), unpack.outputs[0].shape, gemm.inputs[0].shape
    if weight is None or weight.ndim != 2 or shape is None or flat is None or len(flat) != 2:
        return None
    rows = weight.T if gemm.attrs.get("transB", 0) else weight
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    if len(sizes) != 3 or rows.shape[0] != np.prod(sizes) or flat[0] != shape[0]:
        return None
    bias = constant_value(gemm.inputs[2]) if len(gemm.inputs) > 2 else np.zeros(rows.shape[1], np.float32)
    if bias is None or bias.shape != (rows.shape[1],):
        return None
    values = [np.ascontiguousarray(value, np.float32) for value in (rows, bias)]
    return gs.Constant(gemm.inputs[1].name, values[0]), gs.Constant(f"{gemm.name}.bias", values[1])


def _fuse(graph: gs.Graph, gemm: gs.Node, unpack: gs.Node, constants: tuple[gs.Constant, gs.Constant]) -> None:
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
        [*unpack.inputs, *constants],
        name=gemm.name,
        domain=opset.DOMAIN,
        attrs={"channels": unpack.attrs["channels"], "lower": lower},
        outputs=[output],
    )
    for node in (gemm, last):
        node.outputs.clear()
        node.inputs.clear()
