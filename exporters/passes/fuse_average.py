"""Takes the average of planes, and what only reshapes it, into the Linear that reads it.

Linear(Reshape(ToNCHW(ReduceMean(x))), i, W, b)   becomes   Linear(x, i, W, b, average=1)
"""

import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import is_op, maker, only_consumer, reduces_planes

__all__ = ["fuse_average"]

_SHAPES = frozenset(["Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])


def fuse_average(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of averages fused.

    1. A Linear of single pixels (N, 1, 1, C), which a ReduceMean over the planes of (N, H, W, C) gives it alone,
       directly or through nodes that change nothing but the shape: reads the planes, and averages them itself.
    2. Anything else: left as it is.
    """
    fused = sum(_fuse(graph, node) for node in list(graph.nodes) if is_op(node, opset.LINEAR))
    graph.cleanup().toposort()
    return fused


def _fuse(graph: gs.Graph, linear: gs.Node) -> bool:
    reader, node, shape = linear, maker(linear), linear.inputs[0].shape
    while node is not None and only_consumer(graph, reader.inputs[0]) is not None and _reshapes(node):
        reader, node = node, maker(node)
    means = reader.inputs[0]
    if node is None or only_consumer(graph, means) is None or not _averages(node):
        return False
    if shape is None or means.shape is None or list(shape) != list(means.shape) or list(shape[1:3]) != [1, 1]:
        return False
    linear.inputs[0] = node.inputs[0]
    linear.attrs["average"] = 1
    return True


def _reshapes(node: gs.Node) -> bool:
    """True for what leaves the numbers of single pixels in their order."""
    keeps_samples = node.op != "Transpose" or node.attrs.get("perm", [None])[0] == 0
    return not node.domain and node.op in _SHAPES and keeps_samples


def _averages(node: gs.Node) -> bool:
    return bool(node.op == "ReduceMean" and not node.domain and reduces_planes(node))
