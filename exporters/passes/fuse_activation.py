"""Takes the Relu or Clip behind our convolutions into their clamp: clamp(clamp(y, l, u), a, b) = clamp(y, l', u')."""

import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import constant_value, only_consumer

__all__ = ["bounds_of", "fuse_activation"]


def fuse_activation(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of activations fused.

    1. Relu, or Clip with constant bounds, that alone reads Y: fused, l' and u' are l and u clamped to its
       bounds.
    2. Anything else, or Y read by others too: left as it is.
    """
    fused = 0
    for node in list(graph.nodes):
        if node.domain != opset.DOMAIN or node.op not in (opset.FBS_CONV.name, opset.SPARSE_CONV.name):
            continue
        while (following := only_consumer(graph, node.outputs[0])) is not None:
            bounds = bounds_of(following)
            if bounds is None:
                break
            for name in ("lower", "upper"):
                node.attrs[name] = min(max(node.attrs[name], bounds[0]), bounds[1])
            outputs = list(following.outputs)
            following.outputs.clear()
            following.inputs.clear()
            node.outputs[0] = outputs[0]
            fused += 1
    graph.cleanup()
    return fused


def bounds_of(node: gs.Node) -> tuple[float, float] | None:
    """What an activation clamps to, None for other nodes."""
    if node.domain:
        return None
    if node.op == "Relu":
        return 0.0, opset.FLOAT_MAX
    if node.op != "Clip":
        return None
    bounds = [-opset.FLOAT_MAX, opset.FLOAT_MAX]
    for position, tensor in enumerate(node.inputs[1:]):
        if tensor.is_empty():
            continue
        value = constant_value(tensor)
        if value is None:
            return None
        bounds[position] = float(value.item())
    return bounds[0], bounds[1]
