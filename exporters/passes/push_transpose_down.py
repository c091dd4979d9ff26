"""Moves changes from NHWC to NCHW towards the outputs, so that neighbouring layers meet in NHWC.

f_nchw(ToNCHW(x))  becomes  ToNCHW(f_nhwc(x))          ToNHWC(ToNCHW(x))  becomes  x
"""

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from exporters.surgery import (
    NCHW_TO_NHWC,
    NHWC_TO_NCHW,
    add_node,
    add_transpose,
    constant_value,
    fresh_name,
    is_transpose,
    permuted,
    transposed,
)

__all__ = ["push_transpose_down"]

_ELEMENTWISE = frozenset(
    [
        *("Abs", "Ceil", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
        *("Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus"),
        *("Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
    ]
)
_BROADCASTING = frozenset(["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Sum"])
_REDUCTIONS = frozenset(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"])
_POOLS = frozenset(["MaxPool", "AveragePool", "LpPool"])
_WINDOWED = "exporters.windowed"  # mark on a pool already between its pair of transposes


def push_transpose_down(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of rewrites.

    For every reader of ToNCHW(x), x in NHWC:

    1. ToNHWC: both go.
    2. An elementwise op: works on x, ToNCHW follows it.
    3. A broadcasting op: its other operands are brought to NHWC (constants now, tensors by a transpose).
    4. GlobalAveragePool and reductions over the plane: become reductions over axes 1 and 2.
    5. Concat over channels, all of it: over axis 3.
    6. A window pool, for which ONNX knows NCHW only: a pair ToNHWC, ToNCHW follows it, so that what comes
       after meets in NHWC; the pair goes again if nothing does.
    7. Anything else, or an output of the graph: ToNCHW stays before it. Behind a global average it moves single
       pixels and costs nothing, but shows a stock runtime where the transposes of the function bodies end.
    """
    total = 0
    while changed := sum(_push(graph, node) for node in list(graph.nodes) if is_transpose(node, NHWC_TO_NCHW)):
        total += changed
        graph.cleanup().toposort()
    total += _cancel_pairs(graph)
    for node in graph.nodes:
        node.attrs.pop(_WINDOWED, None)
    graph.cleanup().toposort()
    return total


def _push(graph: gs.Graph, node: gs.Node) -> int:
    if not node.outputs or not node.inputs:
        return 0
    x, nchw = node.inputs[0], node.outputs[0]
    return sum(_push_through(graph, reader, x, nchw) for reader in list(nchw.outputs))


def _push_through(graph: gs.Graph, reader: gs.Node, x: gs.Tensor, nchw: gs.Tensor) -> bool:
    # A reader of `nchw` in two places comes twice; the first time has served both.
    if reader.domain or not reader.outputs or not any(tensor is nchw for tensor in reader.inputs):
        return False
    if is_transpose(reader, NCHW_TO_NHWC):
        return _replace_everywhere(graph, reader.outputs[0], x)
    rule = _RULES.get(reader.op)
    return rule is not None and rule(graph, reader, x, nchw)


def _elementwise(graph: gs.Graph, reader: gs.Node, x: gs.Tensor, nchw: gs.Tensor) -> bool:
    if reader.inputs[0] is not nchw:
        return False
    reader.inputs[0] = x
    _follow(graph, reader)
    return True


def _broadcasting(graph: gs.Graph, reader: gs.Node, x: gs.Tensor, nchw: gs.Tensor) -> bool:
    if any(tensor.shape is None or len(tensor.shape) > 4 for tensor in reader.inputs):
        return False
    if any(constant_value(tensor) is None and len(tensor.shape) != 4 for tensor in reader.inputs):
        return False
    for position, tensor in enumerate(list(reader.inputs)):
        reader.inputs[position] = _in_nhwc(graph, tensor)
    _follow(graph, reader)
    return True


def _in_nhwc(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor:
    value = constant_value(tensor)
    if value is not None:
        moved = value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(NCHW_TO_NHWC)
        return gs.Constant(fresh_name(graph, tensor.name), np.ascontiguousarray(moved))
    source = _before_to_nchw(tensor)
    return transposed(graph, tensor, NCHW_TO_NHWC) if source is None else source


def _reduction(graph: gs.Graph, reader: gs.Node, x: gs.Tensor, nchw: gs.Tensor) -> bool:
    axes = reader.attrs.get("axes")
    if len(reader.inputs) > 1:
        values = constant_value(reader.inputs[1])
        axes = None if values is None else values.tolist()
    if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        return False
    reader.inputs = [x, gs.Constant(fresh_name(graph, "plane_axes"), np.array([1, 2], np.int64))]
    reader.attrs.pop("axes", None)
    if not reader.attrs.get("keepdims", 1):
        _keep_dimensions(graph, reader)
    _follow(graph, reader)
    return True


def _keep_dimensions(graph: gs.Graph, reduction: gs.Node) -> None:
    """The reduction gives single pixels (N, C, 1, 1); a Squeeze behind it gives (N, C) as before."""
    output = reduction.outputs[0]
    shape = None if output.shape is None else [*output.shape, 1, 1]
    pixels = gs.Variable(fresh_name(graph, reduction.name), output.dtype, shape)
    reduction.attrs["keepdims"] = 1
    reduction.outputs = [pixels]
    plane = gs.Constant(fresh_name(graph, "plane_axes"), np.array([2, 3], np.int64))
    add_node(graph, "Squeeze", [pixels, plane], name=f"{reduction.name}/Squeeze", outputs=[output])


def _global_average(graph: gs.Graph, reader: gs.Node, x: gs.Tensor, nchw: gs.Tensor) -> bool:
    reader.op = "ReduceMean"
    reader.attrs["keepdims"] = 1
    reader.inputs = [x, gs.Constant(fresh_name(graph, "plane_axes"), np.array([1, 2], np.int64))]
    _follow(graph, reader)
    return True


def _concat(graph: gs.Graph, reader: gs.Node, x: gs.Tensor, nchw: gs.Tensor) -> bool:
    sources = [_before_to_nchw(tensor) for tensor in reader.inputs]
    if reader.attrs.get("axis") not in (1, -3) or any(source is None for source in sources):
        return False
    reader.inputs = sources
    reader.attrs["axis"] = 3
    _follow(graph, reader)
    return True


def _pool(graph: gs.Graph, reader: gs.Node, x: gs.Tensor, nchw: gs.Tensor) -> bool:
    if reader.attrs.get(_WINDOWED) or len(reader.outputs) > 1:
        return False
    reader.attrs[_WINDOWED] = 1
    output = reader.outputs[0]
    inner = gs.Variable(fresh_name(graph, reader.name), np.float32, output.shape)
    reader.outputs = [inner]
    nhwc = transposed(graph, inner, NCHW_TO_NHWC)
    add_transpose(graph, nhwc, NHWC_TO_NCHW, name=reader.name, output=output)
    return True


_Rule = Callable[[gs.Graph, gs.Node, gs.Tensor, gs.Tensor], bool]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_BROADCASTING, _broadcasting),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_POOLS, _pool),
    "GlobalAveragePool": _global_average,
    "Concat": _concat,
}


def _follow(graph: gs.Graph, node: gs.Node) -> None:
    """Puts ToNCHW behind `node`; the node's old output tensor is now the transpose's, under its old name."""
    output = node.outputs[0]
    inner = gs.Variable(fresh_name(graph, node.name), output.dtype, permuted(output.shape, NCHW_TO_NHWC))
    node.outputs = [inner]
    add_transpose(graph, inner, NHWC_TO_NCHW, name=node.name, output=output)


def _before_to_nchw(tensor: gs.Tensor) -> gs.Tensor | None:
    """The NHWC tensor behind ToNCHW, None if `tensor` does not come from one."""
    if len(tensor.inputs) == 1 and is_transpose(tensor.inputs[0], NHWC_TO_NCHW):
        return tensor.inputs[0].inputs[0]
    return None


def _replace_everywhere(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> bool:
    """Readers of `old` read `new`; False where `old` is an output of the graph, whose name must stay."""
    if any(old is output for output in graph.outputs):
        return False
    for reader in list(old.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[position] = new
    old.inputs.clear()
    return True


def _cancel_pairs(graph: gs.Graph) -> int:
    """Removes ToNHWC followed by ToNCHW, left behind by pools whose readers stayed in NCHW."""
    cancelled = 0
    for node in list(graph.nodes):
        if not node.inputs or not is_transpose(node, NHWC_TO_NCHW) or not node.inputs[0].inputs:
            continue
        before = node.inputs[0].inputs[0]
        if is_transpose(before, NCHW_TO_NHWC):
            cancelled += _replace_everywhere(graph, node.outputs[0], before.inputs[0])
    graph.cleanup()
    return cancelled
