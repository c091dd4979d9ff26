"""The few moves on an onnx-graphsurgeon graph that the passes share; they change the graph given."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters import opset

__all__ = [
    "NCHW_TO_NHWC",
    "NHWC_TO_NCHW",
    "add_node",
    "add_transpose",
    "constant_value",
    "fresh_name",
    "is_op",
    "is_transpose",
    "keeps_zero_planes",
    "maker",
    "only_consumer",
    "permuted",
    "reduces_planes",
    "set_input",
    "transposed",
]

NCHW_TO_NHWC = [0, 2, 3, 1]
NHWC_TO_NCHW = [0, 3, 1, 2]


def fresh_name(graph: gs.Graph, hint: str) -> str:
    """A tensor or node name not yet used; depends only on the graph and the calls before."""
    graph.name_idx += 1
    return f"{hint}#{graph.name_idx}"


def add_node(
    graph: gs.Graph,
    op: str,
    inputs: Sequence[gs.Tensor],
    *,
    name: str,
    attrs: dict[str, object] | None = None,
    domain: str | None = None,
    outputs: Sequence[gs.Tensor] | None = None,
    shape: Sequence[int | str] | None = None,
) -> gs.Node:
    """Adds a node; without `outputs` it gets one float tensor of `shape`."""
    made = [gs.Variable(fresh_name(graph, name), np.float32, None if shape is None else list(shape))]
    node = gs.Node(
        op,
        name=name,
        attrs=attrs or {},
        inputs=list(inputs),
        outputs=made if outputs is None else list(outputs),
        domain=domain,
    )
    graph.nodes.append(node)
    return node


def is_op(node: gs.Node, op: opset.Op) -> bool:
    """True for a node of this op of domain `compress`."""
    return bool(node.domain == opset.DOMAIN and node.op == op.name)


def maker(node: gs.Node) -> gs.Node | None:
    """The node that makes a node's first input; None for constants and inputs of the graph."""
    return node.inputs[0].inputs[0] if node.inputs and node.inputs[0].inputs else None


def is_transpose(node: gs.Node, perm: Sequence[int]) -> bool:
    """True for a Transpose with exactly this permutation."""
    return bool(node.op == "Transpose" and not node.domain and list(node.attrs.get("perm", ())) == list(perm))


def keeps_zero_planes(node: gs.Node) -> bool:
    """True for an elementwise op with f(0) = 0: a plane of zeros stays one (Clip where its bounds enclose 0)."""
    if node.domain:
        return False
    return node.op in _ZERO_KEEPING or (node.op == "Clip" and _encloses_zero(node))


_ZERO_KEEPING = frozenset(
    [
        *("Abs", "Ceil", "Celu", "Elu", "Erf", "Floor", "Gelu", "HardSwish", "Identity", "LeakyRelu", "Mish"),
        *("Neg", "Relu", "Round", "Selu", "Sign", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
    ]
)


def _encloses_zero(node: gs.Node) -> bool:
    low, high = float("-inf"), float("inf")
    for position, tensor in enumerate(node.inputs[1:]):
        if tensor.is_empty():
            continue
        value = constant_value(tensor)
        if value is None:
            return False
        low, high = (float(value.item()), high) if position == 0 else (low, float(value.item()))
    return low <= 0.0 <= high


def permuted(shape: Sequence[int | str] | None, perm: Sequence[int]) -> list[int | str] | None:
    """The shape after a transpose; None stays None."""
    return None if shape is None else [shape[axis] for axis in perm]


def transposed(graph: gs.Graph, tensor: gs.Tensor, perm: Sequence[int]) -> gs.Tensor:
    """The tensor transposed, by a Transpose that is already there or a new one."""
    for node in tensor.outputs:
        if is_transpose(node, perm):
            return node.outputs[0]
    maker = tensor.inputs[0].name if tensor.inputs else tensor.name
    shape = permuted(tensor.shape, perm)
    return add_transpose(graph, tensor, perm, name=maker, shape=shape).outputs[0]


def add_transpose(
    graph: gs.Graph,
    tensor: gs.Tensor,
    perm: Sequence[int],
    *,
    name: str,
    output: gs.Tensor | None = None,
    shape: Sequence[int | str] | None = None,
) -> gs.Node:
    """Adds a Transpose called after what it changes: name/ToNHWC or name/ToNCHW."""
    form = "ToNHWC" if list(perm) == NCHW_TO_NHWC else "ToNCHW"
    return add_node(
        graph,
        "Transpose",
        [tensor],
        name=f"{name}/{form}",
        attrs={"perm": list(perm)},
        outputs=None if output is None else [output],
        shape=shape,
    )


def reduces_planes(node: gs.Node) -> bool:
    """True for a reduction over the planes, channels last, that keeps its dimensions."""
    axes = constant_value(node.inputs[1]) if len(node.inputs) > 1 else None
    return axes is not None and sorted(axes.tolist()) == [1, 2] and bool(node.attrs.get("keepdims", 1))


def only_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The node that alone reads the tensor; None if several do, none does, or the graph hands it out."""
    if len(tensor.outputs) != 1 or any(tensor is output for output in graph.outputs):
        return None
    return tensor.outputs[0]


def set_input(node: gs.Node, op: opset.Op, name: str, tensor: gs.Tensor) -> None:
    """Changes `node`: it reads `tensor` as what `op` calls `name`; optional inputs before that it lacks are empty."""
    place = [tensor.name for tensor in op.inputs].index(name)
    node.inputs.extend([gs.Variable.empty() for _ in range(place + 1 - len(node.inputs))])
    node.inputs[place] = tensor


def constant_value(tensor: gs.Tensor) -> npt.NDArray[np.generic] | None:
    """The array of an initializer, None for anything computed."""
    if isinstance(tensor, gs.Constant):
        value: npt.NDArray[np.generic] = tensor.values
        return value
    return None
