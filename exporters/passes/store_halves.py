"""Stores predictors as numbers of 16 bits where nothing is lost.

    A (C, K) float32   becomes   A (C, K) float16

The library reads them as they are; a function body casts them to float32, which a runtime does once, at load.
"""

import numpy as np
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.surgery import constant_value, fresh_name, is_op

__all__ = ["store_halves"]

_A = [tensor.name for tensor in opset.FBS_CONV.inputs].index("A")


def store_halves(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of layers whose predictor became float16.

    1. Saliency weights that float16 holds exactly, all of a layer's: stored so. `compressor.methods.fbs_half` rounds a
       network's to such numbers.
    2. Any other: left as they are.
    """
    found = 0
    for node in graph.nodes:
        if not is_op(node, opset.FBS_CONV):
            continue
        values = constant_value(node.inputs[_A])
        assert values is not None  # lower_fbs_conv has seen to it
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and so another number
            halves = values.astype(np.float16)
        if np.array_equal(halves.astype(values.dtype), values):
            node.inputs[_A] = gs.Constant(fresh_name(graph, f"{node.name}.saliency_weight"), halves)
            found += 1
    return found
