"""Lets an op take the means of the planes it writes, for the predictors of the layers that read them.

FBSConv(x, i, …)   becomes   FBSConv(x, i, …, u)   where u is another output of the op that makes x
"""

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import constant_value, fresh_name, is_op, maker, set_input

__all__ = ["share_means"]

_LAYERS = (opset.FBS_CONV, opset.FBS_CONV_DEPTHWISE)


def share_means(graph: gs.Graph) -> int:
    """Changes `graph`, after all passes that change the ops named; returns the number of layers that got means.

    1. Each FBSConv and FBSConvDepthwise whose planes are an UnpackAdd's, an FBSConv's or an FBSConvDepthwise's, all of
       them and in its order: gets U from there, where the means have just what the layer takes for left out of the
       planes (E). All layers that read one op's planes share its means.
    2. Anything else: left as it is.
    """
    return sum(_share(graph, layer) for layer in graph.nodes)


def _share(graph: gs.Graph, layer: gs.Node) -> bool:
    op = _op_of(layer, _LAYERS)
    source = maker(layer)
    if op is None or source is None:
        return False
    written = _op_of(source, (opset.UNPACK_ADD, *_LAYERS))
    given = op.given(layer.inputs)
    if written is None or not given.get("U", gs.Variable.empty()).is_empty():
        return False
    if written in _LAYERS and layer.inputs[1] is not source.outputs[1]:
        return False
    if not _same_left_out(_left_out_by(source, written), given.get("E", gs.Variable.empty())):
        return False
    if len(source.outputs) < len(written.outputs):
        planes = layer.inputs[0].shape
        shape = None if planes is None else [planes[0], planes[3]]
        source.outputs.append(gs.Variable(fresh_name(graph, source.name), np.float32, shape))
    set_input(layer, op, "U", source.outputs[-1])
    return True


def _op_of(node: gs.Node, ops: tuple[opset.Op, ...]) -> opset.Op | None:
    return next((op for op in ops if is_op(node, op)), None)


def _left_out_by(source: gs.Node, op: opset.Op) -> npt.NDArray[np.generic] | None:
    """What is missing in each plane an op writes, (K,); None for nothing."""
    if op is not opset.FBS_CONV_DEPTHWISE:
        return None
    bias = constant_value(op.given(source.inputs)["S"])
    if bias is None:
        raise ValueError(f"node '{source.name}': S must be an initializer")
    value: npt.NDArray[np.generic] = np.clip(bias, source.attrs["depthwise_lower"], source.attrs["depthwise_upper"])
    return value.astype(np.float32)


def _same_left_out(written: npt.NDArray[np.generic] | None, read: gs.Tensor) -> bool:
    if read.is_empty():
        return written is None
    expected = constant_value(read)
    return written is not None and expected is not None and np.array_equal(written, expected)
