"""Turns torch's FBS layers (dense in, dense out) into packed FBSConv nodes between explicit changes of form.

    y = FBSConvDense(x)   becomes   y = ToNCHW(Unpack(FBSConv(ToNHWC(x), [[0 .. C-1]], W, B, A, R[, D])))

The passes that follow push Unpack and ToNCHW towards the graph's outputs, where neighbours cancel.
"""

import numpy as np
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.errors import ExportError
from exporters.surgery import (
    NCHW_TO_NHWC,
    NHWC_TO_NCHW,
    add_node,
    add_transpose,
    constant_value,
    fresh_name,
    permuted,
    transposed,
)

__all__ = ["checked_constants", "lower_fbs_conv"]

_ROLES = ("weight", "shift", "saliency_weight", "saliency_bias", "post_shift")


def lower_fbs_conv(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of layers lowered.

    Raises:
        ExportError: a layer's weights are computed from the input, or its sizes do not fit together.
    """
    layers = [node for node in graph.nodes if node.op == opset.TORCH_FBS_CONV]
    channel_lists: dict[int, gs.Constant] = {}
    for node in layers:
        _lower(graph, node, channel_lists)
    graph.cleanup().toposort()
    return len(layers)


def checked_constants(graph: gs.Graph, node: gs.Node) -> list[gs.Constant]:
    """Returns a layer's weight, shift, saliency weight, saliency bias and, where it has one, post-shift, renamed.

    Raises:
        ExportError: one of them is computed from the input, or their sizes do not fit together.
    """
    constants = []
    for role, tensor in zip(_ROLES, node.inputs[1:], strict=False):
        value = constant_value(tensor)
        if value is None:
            raise ExportError(f"layer '{node.name}': its {role} depends on the network's input; it must be constant")
        constants.append(gs.Constant(fresh_name(graph, f"{node.name}.{role}"), np.ascontiguousarray(value, np.float32)))
    outputs, channels = constants[0].shape[:2]
    winners = int(node.attrs["winners"])
    if not 1 <= winners <= outputs or list(constants[2].shape) != [channels, outputs]:
        raise ExportError(
            f"layer '{node.name}': {winners} winners of {outputs} channels with saliency weights of shape "
            f"{tuple(constants[2].shape)}; allowed are 1 to {outputs} winners and ({channels}, {outputs})"
        )
    return constants


def _lower(graph: gs.Graph, node: gs.Node, channel_lists: dict[int, gs.Constant]) -> None:
    x, dense = node.inputs[0], node.outputs[0]
    constants = checked_constants(graph, node)
    outputs, channels = constants[0].shape[:2]
    winners = int(node.attrs["winners"])
    if channels not in channel_lists:
        channel_lists[channels] = gs.Constant(f"channels.{channels}", np.arange(channels, dtype=np.int64)[None])

    shape = permuted(dense.shape, NCHW_TO_NHWC)
    assert shape is not None
    packed = gs.Variable(fresh_name(graph, node.name), np.float32, [*shape[:3], winners])
    places = gs.Variable(fresh_name(graph, node.name), np.int64, [shape[0], winners])
    attributes = {key: value for key, value in node.attrs.items() if key in _KEPT}
    add_node(
        graph,
        opset.FBS_CONV.name,
        [transposed(graph, x, NCHW_TO_NHWC), channel_lists[channels], *constants],
        name=node.name,
        domain=opset.DOMAIN,
        attrs=attributes | opset.NO_CLAMP,
        outputs=[packed, places],
    )
    unpack = add_node(
        graph,
        opset.UNPACK.name,
        [packed, places],
        name=f"{node.name}/Unpack",
        domain=opset.DOMAIN,
        attrs={"channels": outputs},
        shape=shape,
    )
    node.outputs.clear()
    add_transpose(graph, unpack.outputs[0], NHWC_TO_NCHW, name=node.name, output=dense)


_KEPT = {attribute.name for attribute in opset.FBS_CONV.attributes}
