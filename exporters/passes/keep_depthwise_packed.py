"""Lets depthwise convolutions work on packed planes, so that a channel that lost costs nothing in them.

FBSConv(ToNHWC(clamp(Conv(ToNCHW(Unpack(x, i))))), all channels)   becomes   FBSConv(DepthwiseConv(x, i), i)

Of the plane of zeros of a channel that lost, a depthwise convolution makes a constant one, Z[c] = clamp(bias[c]). The
op hands out what differs from it, so that such channels stay absent. A 1x1 FBSConv that reads it gets the rest back as
constants: B + sum over c of W[:, c] * Z[c] in its convolution, and E = Z in its predictor.
"""

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.passes.fuse_activation import bounds_of
from exporters.passes.push_unpack_down import takes_all
from exporters.surgery import (
    NCHW_TO_NHWC,
    NHWC_TO_NCHW,
    add_node,
    constant_value,
    fresh_name,
    is_op,
    is_transpose,
    maker,
    only_consumer,
    permuted,
    set_input,
)

__all__ = ["keep_depthwise_packed"]

_Array = npt.NDArray[np.float32]
_LEFT_OUT = [tensor.name for tensor in opset.FBS_CONV.inputs].index("E")


def keep_depthwise_packed(graph: gs.Graph) -> int:
    """Changes `graph`, whose Unpacks have been pushed down; returns the number of convolutions that work packed.

    1. A convolution with a constant filter for each channel, between an Unpack and 1x1 FBSConvs without padding that
       read all channels; a Relu or Clip with constant bounds may stand behind it: works packed.
    2. Anything else, or where something else reads a tensor between them: left as it is.
    """
    changed = sum(_keep(graph, node) for node in list(graph.nodes) if node.op == "Conv" and not node.domain)
    graph.cleanup().toposort()
    return changed


def _keep(graph: gs.Graph, conv: gs.Node) -> bool:
    unpack, constants = _unpack_before(conv), _constants(conv)
    if unpack is None or constants is None:
        return False
    end, bounds = conv.outputs[0], (-opset.FLOAT_MAX, opset.FLOAT_MAX)
    activation = only_consumer(graph, end)
    if activation is not None and (found := bounds_of(activation)) is not None:
        end, bounds = activation.outputs[0], found
    to_nhwc = only_consumer(graph, end)
    if to_nhwc is None or not is_transpose(to_nhwc, NCHW_TO_NHWC):
        return False
    dense = to_nhwc.outputs[0]
    readers = list(dense.outputs)
    if not readers or any(dense is output for output in graph.outputs):
        return False
    if not all(_takes_constants(reader, dense) for reader in readers):
        return False
    packed = _depthwise(graph, conv, unpack, constants, bounds)
    left_out = np.clip(constants[1], *bounds).astype(np.float32)
    for reader in readers:
        _read_packed(graph, reader, packed, unpack.inputs[1], left_out)
    return True


def _unpack_before(conv: gs.Node) -> gs.Node | None:
    """The Unpack whose planes, in NCHW, the convolution reads."""
    to_nchw = maker(conv)
    unpack = None if to_nchw is None or not is_transpose(to_nchw, NHWC_TO_NCHW) else maker(to_nchw)
    return unpack if unpack is not None and is_op(unpack, opset.UNPACK) else None


def _constants(conv: gs.Node) -> tuple[_Array, _Array] | None:
    """W (C, 1, kh, kw) and the bias (C,), where there is one constant filter over a plane for each channel."""
    weight = constant_value(conv.inputs[1])
    bias = constant_value(conv.inputs[2]) if len(conv.inputs) > 2 else None
    if weight is None or weight.ndim != 4 or conv.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    if weight.shape[1] != 1 or conv.attrs.get("group", 1) != len(weight) or (len(conv.inputs) > 2 and bias is None):
        return None
    shift = np.zeros(len(weight)) if bias is None else bias
    return np.ascontiguousarray(weight, np.float32), np.ascontiguousarray(shift, np.float32)


def _takes_constants(reader: gs.Node, dense: gs.Tensor) -> bool:
    """True for an FBSConv in which a constant plane of a channel is a constant of the sum."""
    if not is_op(reader, opset.FBS_CONV) or reader.inputs[0] is not dense or not takes_all(reader):
        return False
    return len(reader.inputs) <= _LEFT_OUT and not any(reader.attrs["pads"])


def _depthwise(
    graph: gs.Graph, conv: gs.Node, unpack: gs.Node, constants: tuple[_Array, _Array], bounds: tuple[float, float]
) -> gs.Tensor:
    """The node that works packed; returns what it makes."""
    packed, indices = unpack.inputs
    shape = permuted(conv.outputs[0].shape, NCHW_TO_NHWC)
    node = add_node(
        graph,
        opset.DEPTHWISE_CONV.name,
        [
            packed,
            indices,
            gs.Constant(fresh_name(graph, f"{conv.name}.weight"), constants[0]),
            gs.Constant(fresh_name(graph, f"{conv.name}.bias"), constants[1]),
        ],
        name=conv.name,
        domain=opset.DOMAIN,
        attrs={
            "strides": list(conv.attrs.get("strides", [1, 1])),
            "pads": list(conv.attrs.get("pads", [0, 0, 0, 0])),
            "dilations": list(conv.attrs.get("dilations", [1, 1])),
            "lower": bounds[0],
            "upper": bounds[1],
            "channels": len(constants[1]),
        },
        shape=None if shape is None else [*shape[:3], packed.shape[3]],
    )
    return node.outputs[0]


def _read_packed(graph: gs.Graph, reader: gs.Node, packed: gs.Tensor, indices: gs.Tensor, left_out: _Array) -> None:
    weight, shift = (constant_value(tensor) for tensor in reader.inputs[2:4])
    assert weight is not None
    assert shift is not None
    constant = weight.astype(np.float64).sum(axis=(2, 3)) @ left_out
    reader.inputs[0], reader.inputs[1] = packed, indices
    reader.inputs[3] = gs.Constant(fresh_name(graph, f"{reader.name}.shift"), (shift + constant).astype(np.float32))
    set_input(reader, opset.FBS_CONV, "E", gs.Constant(fresh_name(graph, f"{reader.name}.left_out"), left_out))
