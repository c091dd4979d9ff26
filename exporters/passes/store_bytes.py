"""Stores weights that our ops read as whole numbers of 8 bits with a step for each output, where nothing is lost.

FBSConv: W[i] = P[i] * W'[i], A[:, i] = Q[i] * A'[:, i]   becomes   FBSConv with W' and A' (int8), P and Q (float32)
Linear: W[:, i] = P[i] * W'[:, i]                         becomes   Linear with W' (int8) and P (float32)
Relu(Gemm(x, W, b)), x (N, C)                             becomes   Linear(Unsqueeze(x), [[0 .. C-1]], W', b, P)

The library reads them as they are; a function body makes them floats, which a runtime does once, at load.
"""

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.passes.fuse_linear import linear_of_rows
from exporters.surgery import constant_value, fresh_name, is_op, set_input

__all__ = ["store_byte_predictors", "store_bytes"]

_LARGEST = 127
_SMALLEST_STEP = np.float32(2.0**-100)  # a bias over it is still a float32
_STEP_BYTES = 4
_MOST_AT_A_TIME = 1 << 22  # weights that are looked at together
# Weights of each op, their outputs' axis, and what the op calls the steps.
_PREDICTORS = (opset.FBS_CONV, "A", 1, "Q")
_WEIGHTS = ((opset.FBS_CONV, "W", 0, "P"), _PREDICTORS, (opset.LINEAR, "W", 1, "P"))


def store_bytes(graph: gs.Graph) -> int:
    """Changes `graph`; returns the number of weights, predictors and kernels counted each, that became bytes.

    1. Weights of FBSConv and Linear of which each output's are whole numbers from -127 to 127 times a step, in float32,
       all of a layer's: stored so where that is smaller. `compressor.methods.fbs_rounding` rounds a network's to such
       numbers; channels may have gone since.
    2. A Gemm behind FBS layers with such weights, on rows of known length: becomes a Linear, as in `store_halves`.
    3. Any other: left as they are.
    """
    if not any(is_op(node, opset.FBS_CONV) for node in graph.nodes):
        return 0
    found = sum(linear_of_rows(graph, node, lambda rows: _levels(rows.T) is not None) for node in list(graph.nodes))
    if found:
        graph.cleanup().toposort()
    return sum(_store_all(graph, *weights) for weights in _WEIGHTS)


def store_byte_predictors(graph: gs.Graph) -> int:
    """Changes `graph` as `store_bytes` does, but only predictors; returns the number that became bytes."""
    return _store_all(graph, *_PREDICTORS)


def _store_all(graph: gs.Graph, op: opset.Op, name: str, axis: int, step_name: str) -> int:
    return sum(_store(graph, node, op, name, axis, step_name) for node in graph.nodes if is_op(node, op))


def _store(graph: gs.Graph, layer: gs.Node, op: opset.Op, name: str, axis: int, step_name: str) -> bool:
    tensor = op.given(layer.inputs)[name]
    values = constant_value(tensor)
    assert values is not None  # who made the node has seen to it
    if values.dtype != np.float32:
        return False
    rows = np.moveaxis(values, axis, 0)
    found = _levels(rows.reshape(len(rows), -1).astype(np.float32, copy=False))
    if found is None:
        return False
    levels, steps = found
    stored = np.ascontiguousarray(np.moveaxis(levels.reshape(rows.shape), 0, axis))
    set_input(layer, op, name, gs.Constant(fresh_name(graph, tensor.name), stored))
    set_input(layer, op, step_name, gs.Constant(fresh_name(graph, f"{tensor.name}.steps"), steps))
    return True


def _levels(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    """Whole numbers (K, n) and steps (K,) whose float32 products are `rows`; None where an output has none.

    An output's largest number is 127 unless that weight's channel has gone since: smaller ones are tried after it.
    """
    outputs, length = rows.shape
    if length + _STEP_BYTES >= rows.itemsize * length:  # also: a number is always a multiple of itself
        return None
    parts = []
    for some in np.array_split(rows, max(1, min(outputs, rows.size // _MOST_AT_A_TIME))):
        part = _levels_of_some(np.ascontiguousarray(some))
        if part is None:
            return None
        parts.append(part)
    levels, steps = zip(*parts, strict=True)
    return np.concatenate(levels), np.concatenate(steps)


def _levels_of_some(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    outputs = len(rows)
    largest = np.abs(rows).max(axis=1)
    if not np.isfinite(largest).all():
        return None
    steps = np.ones(outputs, np.float32)
    levels = np.zeros(rows.shape, np.int8)
    left = np.flatnonzero(largest)
    left = left[~_fit(rows, levels, steps, largest, left, _LARGEST)]
    for row in left.reshape(-1, 1):  # one by one: of other weights the first has no step, and the search ends
        if not any(_fit(rows, levels, steps, largest, row, most).all() for most in range(_LARGEST - 1, 0, -1)):
            return None
    return levels, steps


def _fit(
    rows: npt.NDArray[np.float32],
    levels: npt.NDArray[np.int8],
    steps: npt.NDArray[np.float32],
    largest: npt.NDArray[np.float32],
    chosen: npt.NDArray[np.intp],
    most: int,
) -> npt.NDArray[np.bool_]:
    """Which of the `chosen` outputs have a step if their largest number is `most`; `levels` and `steps` get theirs."""
    step = largest[chosen] / np.float32(most)
    usable = step >= _SMALLEST_STEP
    divisor = np.where(usable, step, np.float32(1))[:, None]
    numbers = np.rint(rows[chosen] / divisor)
    fits: npt.NDArray[np.bool_] = usable & (numbers * divisor == rows[chosen]).all(axis=1)
    levels[chosen[fits]] = numbers[fits].astype(np.int8)
    steps[chosen[fits]] = step[fits]
    return fits
