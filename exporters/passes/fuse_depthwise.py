"""Takes an FBS layer and the depthwise convolution behind it into one node, so that the planes between are never whole.

DepthwiseConv(*FBSConv(x, i, …), V, S)   becomes   FBSConvDepthwise(x, i, …, V, S)
"""

import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import add_node, is_op, only_consumer

__all__ = ["fuse_depthwise"]

_FILTERS = [tensor.name for tensor in opset.FBS_CONV_DEPTHWISE.inputs].index("V")


def fuse_depthwise(graph: gs.Graph) -> int:
    """Changes `graph`, after all passes that change one of the two ops; returns the number of pairs fused.

    1. An FBSConv of K channels whose planes a DepthwiseConv of K channels alone reads, with the winners as their
       places: one node, called after the FBSConv. Others may read the winners.
    2. Anything else: left as it is.
    """
    fused = sum(_fuse(graph, node) for node in list(graph.nodes) if is_op(node, opset.FBS_CONV))
    graph.cleanup().toposort()
    return fused


def _fuse(graph: gs.Graph, layer: gs.Node) -> bool:
    planes, winners = layer.outputs
    depthwise = only_consumer(graph, planes)
    if depthwise is None or not is_op(depthwise, opset.DEPTHWISE_CONV) or depthwise.inputs[0] is not planes:
        return False
    _, indices, *constants = depthwise.inputs
    if indices is not winners or depthwise.attrs["channels"] != layer.inputs[2].shape[0]:
        return False
    attributes = {f"depthwise_{name}": value for name, value in depthwise.attrs.items() if name != "channels"}
    (output,) = depthwise.outputs
    inputs = [*layer.inputs[:_FILTERS], *constants, *layer.inputs[_FILTERS:]]
    for node in (layer, depthwise):
        node.outputs.clear()
        node.inputs.clear()
    add_node(
        graph,
        opset.FBS_CONV_DEPTHWISE.name,
        inputs,
        name=layer.name,
        domain=opset.DOMAIN,
        attrs=layer.attrs | attributes,
        outputs=[output, winners],
    )
    return True
