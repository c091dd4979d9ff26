"""Lets the native library lay out the network's input, where FBS layers read it channels last.

FBSConv(Transpose(input))   becomes   FBSConv(ToNHWC(input))
"""

import numpy as np
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import NCHW_TO_NHWC, is_op, is_transpose

__all__ = ["lay_out_input"]


def lay_out_input(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of transposes that became a ToNHWC.

    1. A transpose to channels last of a float input of the graph that an FBSConv reads: becomes one.
    2. Anything else: left as it is.
    """
    inputs = {id(tensor) for tensor in graph.inputs if tensor.dtype == np.float32}
    found = [
        node
        for node in graph.nodes
        if is_transpose(node, NCHW_TO_NHWC)
        and id(node.inputs[0]) in inputs
        and any(is_op(reader, opset.FBS_CONV) for reader in node.outputs[0].outputs)
    ]
    for node in found:
        node.op, node.domain, node.attrs = opset.TO_NHWC.name, opset.DOMAIN, {}
    return len(found)
