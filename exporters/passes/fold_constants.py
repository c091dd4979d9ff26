"""Computes what depends on constants alone, and drops what nothing reads."""

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

__all__ = ["fold_constants"]


def fold_constants(graph: gs.Graph) -> int:
    """Changes `graph`: constant subgraphs become initializers, dead nodes go, order is topological.

    Batch-norm statistics folded in torch (`weight * inverse_std`) arrive as such subgraphs. Nodes that read
    anything computed from the graph's inputs stay. Returns the number of nodes that went.
    """
    before = len(graph.nodes)
    for node in graph.nodes:
        for short in ("value_float", "value_floats"):
            if node.op == "Constant" and short in node.attrs:
                # onnx-graphsurgeon would read these as float64, which the node beside it does not take.
                value = np.asarray(node.attrs.pop(short), np.float32)
                node.attrs["value"] = gs.Constant(node.outputs[0].name, value)
    with G_LOGGER.suppress():  # it advises against folding large weights, which is the purpose here
        graph.fold_constants()
        graph.cleanup().toposort()
    return before - len(graph.nodes)
