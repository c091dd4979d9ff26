"""Takes a residual sum of packed planes, and the Relu behind it, into one UnpackAdd.

Relu(z + Unpack(x, i))           becomes   UnpackAdd(x, i, z, lower=0)
UnpackAdd(x, i, Unpack(z, k))    becomes   UnpackAdd(x, i, z, k)
"""

import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import add_node, constant_value, is_op, only_consumer

__all__ = ["fuse_residual", "fuse_summand"]

_SUMMAND = [tensor.name for tensor in opset.UNPACK_ADD.inputs].index("Z")


def fuse_residual(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of sums fused.

    1. Add of an Unpack that it alone reads and of any computed tensor of the same known shape: fused. Of two such
       Unpacks the first is taken, the second stays and is the tensor.
    2. A Relu that alone reads the sum: becomes its lower bound.
    3. Anything else: left as it is.
    """
    fused = 0
    for node in list(graph.nodes):
        if node.op != "Add" or node.domain:
            continue
        for dense, z in (node.inputs, list(reversed(node.inputs))):
            if _is_fusible(graph, dense, z):
                _fuse(graph, node, dense.inputs[0], z)
                fused += 1
                break
    graph.cleanup().toposort()
    return fused


def fuse_summand(graph: gs.Graph) -> int:
    """Changes `graph`, after `fuse_residual`; returns the number of summands that stay packed.

    1. An UnpackAdd whose dense summand an Unpack gives to it alone: reads the packed one.
    2. Anything else: left as it is.
    """
    fused = sum(_keep_packed(graph, node) for node in graph.nodes)
    graph.cleanup().toposort()
    return fused


def _keep_packed(graph: gs.Graph, node: gs.Node) -> bool:
    if not is_op(node, opset.UNPACK_ADD) or len(node.inputs) > _SUMMAND + 1:
        return False
    z = node.inputs[_SUMMAND]
    if only_consumer(graph, z) is None or not z.inputs or not is_op(z.inputs[0], opset.UNPACK):
        return False
    node.inputs[_SUMMAND], places = z.inputs[0].inputs
    node.inputs.append(places)
    return True


def _is_fusible(graph: gs.Graph, dense: gs.Tensor, z: gs.Tensor) -> bool:
    if len(dense.inputs) != 1 or only_consumer(graph, dense) is None or constant_value(z) is not None:
        return False
    same_shape = dense.shape is not None and z.shape is not None and list(dense.shape) == list(z.shape)
    return is_op(dense.inputs[0], opset.UNPACK) and same_shape


def _fuse(graph: gs.Graph, add: gs.Node, unpack: gs.Node, z: gs.Tensor) -> None:
    last, lower = add, -opset.FLOAT_MAX
    following = only_consumer(graph, add.outputs[0])
    if following is not None and following.op == "Relu" and not following.domain:
        last, lower = following, 0.0
    (output,) = last.outputs
    last.outputs.clear()
    add_node(
        graph,
        opset.UNPACK_ADD.name,
        [*unpack.inputs, z],
        name=last.name,
        domain=opset.DOMAIN,
        attrs={"channels": unpack.attrs["channels"], "lower": lower},
        outputs=[output],
    )
    for node in (add, last):
        node.outputs.clear()
        node.inputs.clear()
