"""Lets a residual sum take the means of its planes while it writes them, for the predictors that need them.

FBSConv(UnpackAdd(x, i, z), …)   becomes   FBSConv(y, …, u)   with   y, u = UnpackAdd(x, i, z)
"""

import numpy as np
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import fresh_name, is_op, maker

__all__ = ["share_means"]


def share_means(graph: gs.Graph) -> int:
    """Changes `graph`, after all passes that change the ops named; returns the number of layers that got means.

    1. Each FBSConv and FBSConvDepthwise without E whose planes are an UnpackAdd's: gets U from there. All layers
       that read one sum share one U.
    2. Anything else: left as it is.
    """
    return sum(_share(graph, layer) for layer in graph.nodes)


def _share(graph: gs.Graph, layer: gs.Node) -> bool:
    op = next((op for op in (opset.FBS_CONV, opset.FBS_CONV_DEPTHWISE) if is_op(layer, op)), None)
    total = maker(layer)
    if op is None or total is None or not is_op(total, opset.UNPACK_ADD):
        return False
    given = dict(zip([tensor.name for tensor in op.inputs], layer.inputs, strict=False))
    if "U" in given or not given.get("E", gs.Variable.empty()).is_empty():
        return False
    if len(total.outputs) == 1:
        planes = layer.inputs[0].shape
        shape = None if planes is None else [planes[0], planes[3]]
        total.outputs.append(gs.Variable(fresh_name(graph, total.name), np.float32, shape))
    absent = [gs.Variable.empty() for _ in op.inputs[len(layer.inputs) : -1]]
    layer.inputs.extend([*absent, total.outputs[1]])
    return True
