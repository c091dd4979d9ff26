"""Takes a max pool between its pair of transposes into one MaxPoolNHWC.

ToNHWC(MaxPool(ToNCHW(x)))   becomes   MaxPoolNHWC(x)
"""

import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import NCHW_TO_NHWC, NHWC_TO_NCHW, add_node, is_op, is_transpose, maker, only_consumer

__all__ = ["fuse_max_pool"]


def fuse_max_pool(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of pools fused.

    1. A MaxPool of two axes that gives no indices, rounds sizes down and has its pads as numbers, each smaller than
       the kernel and none where that is dilated, alone between a transpose from and one to channels last, in a network
       with FBS layers: fused.
    2. Anything else: left as it is.
    """
    if not any(is_op(node, opset.FBS_CONV) for node in graph.nodes):
        return 0
    fused = 0
    for node in list(graph.nodes):
        if node.op == "MaxPool" and not node.domain and len(node.outputs) == 1:
            fused += _fuse(graph, node)
    graph.cleanup().toposort()
    return fused


def _fuse(graph: gs.Graph, pool: gs.Node) -> bool:
    before, after = maker(pool), only_consumer(graph, pool.outputs[0])
    if before is None or after is None or not is_transpose(before, NHWC_TO_NCHW):
        return False
    attributes = _attributes(pool)
    if attributes is None or not is_transpose(after, NCHW_TO_NHWC):
        return False
    (output,) = after.outputs
    after.outputs.clear()
    add_node(
        graph,
        opset.MAX_POOL_NHWC.name,
        [before.inputs[0]],
        name=pool.name,
        domain=opset.DOMAIN,
        attrs=attributes,
        outputs=[output],
    )
    for node in (pool, after):
        node.outputs.clear()
        node.inputs.clear()
    return True


def _attributes(pool: gs.Node) -> dict[str, object] | None:
    """All attributes of the op, or None where it cannot say what the pool does."""
    given = pool.attrs
    kernel = list(given["kernel_shape"])
    if given.get("auto_pad", "NOTSET") != "NOTSET" or given.get("ceil_mode", 0) or len(kernel) != 2:
        return None
    pads, dilations = list(given.get("pads", [0] * 4)), list(given.get("dilations", [1, 1]))
    most = [kernel[axis] - 1 if dilations[axis] == 1 else 0 for axis in (0, 1, 0, 1)]
    if any(pad > limit for pad, limit in zip(pads, most, strict=True)):
        return None
    return {
        "kernel_shape": kernel,
        "strides": list(given.get("strides", [1, 1])),
        "pads": pads,
        "dilations": dilations,
    }
