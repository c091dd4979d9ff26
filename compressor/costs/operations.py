"""What a network computes, operator by operator, as a function of how many units each channel group keeps.

Every operator of the exported network that takes time becomes one line: its kind, the widths its work is proportional
to, and the work per product of those widths. Operators that ONNX Runtime fuses into a convolution (batch norm, simple
activations, the residual sum) and views cost nothing.

1. Convolution, linear: multiply-accumulates, both widths; depthwise: output width.
2. SiLU, GELU and other unfused activations: elements.
3. Pooling and means: elements read; concatenation, products, batch norm with no convolution before it: elements
   written; times how often each is touched (`_TOUCHES`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from compressor.costs.widths import AxisRows
from compressor.graph import ChannelGraph, LayerChannels, Units
from compressor.graph.program import Example, export
from compressor.graph.walk import op_name

__all__ = ["KINDS", "Operations", "operations"]

KINDS = ("conv", "grouped", "depthwise", "weights", "activation", "move")

# By operator names of torch, an underscore at the end left out.
_FUSED = frozenset(
    {"batch_norm", "relu", "relu6", "hardtanh", "clamp", "clamp_min", "leaky_relu", "tanh", "sigmoid", "hardsigmoid"}
    | {"hardswish", "add", "sub"}
)
_ACTIVATIONS = frozenset({"silu", "gelu", "mish", "elu", "selu", "celu", "softplus", "softmax", "exp", "erf"})
_READERS = frozenset({"adaptive_avg_pool2d", "mean", "avg_pool2d", "max_pool2d", "adaptive_max_pool2d", "amax", "sum"})
_FREE = frozenset(
    {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "alias", "detach", "t", "getitem"}
    | {"dropout", "feature_dropout", "split", "chunk", "slice", "select", "to", "_to_copy", "_unsafe_view"}
)
# A mean over the pixels, and a product with one number per channel, run outside the blocked layout: the tensor is
# reordered on the way. Everything else is touched once. Fitted on the node times that `BUILT_IN` names.
_TOUCHES = {"adaptive_avg_pool2d": 1.5, "mean": 1.5, "mul": 1.5, "max_pool2d": 2.0}
_STRIDED = 0.5  # moves per element that a strided depthwise convolution steps over


@dataclass(frozen=True, eq=False)
class Operations:
    """Tables behind `latency_ms`; row 0 of the widths is the constant 1.

    Attributes:
        fixed: (rows,) channels of an axis that no group holds.
        share: (rows, groups) channels of an axis per unit of a group.
        kinds: (operators,) places in `KINDS`.
        work: (operators,) multiply-accumulates, weights or elements per product of widths.
        rows: (operators, 2) input and output width to multiply.
        groups: (operators,) convolution groups; 1 elsewhere.
    """

    fixed: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.int64]
    work: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]


def operations(model: nn.Module, graph: ChannelGraph, example: Example) -> Operations:
    """Returns the operators of a network.

    Args:
        model: the network, in any mode; it stays as it is.
        graph: its channel graph.
        example: what the graph was traced with.

    Raises:
        GraphError: `torch.export` cannot follow the network.
    """
    walk = _Walk(graph)
    for node in export(model, example)[0].graph.nodes:
        if node.op == "call_function":
            walk.visit(node)
    kinds, work, rows, groups = zip(*walk.found, strict=True) if walk.found else ((), (), (), ())
    return Operations(
        walk.rows.fixed,
        walk.rows.share,
        np.array([KINDS.index(kind) for kind in kinds], dtype=np.int64),
        np.array(work, dtype=np.float64),
        np.array(rows, dtype=np.int64).reshape(-1, 2),
        np.array(groups, dtype=np.int64),
    )


class _Walk:
    """Follows which units a value's channels are, from layer to layer."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.rows = AxisRows(graph)
        self.found: list[tuple[str, float, tuple[int, int], int]] = []
        self._layers: Iterator[LayerChannels] = iter([layer for layer in graph.layers if layer.macs])
        self._units: dict[fx.Node, Units] = {}
        self._fusible: set[fx.Node] = set()

    def visit(self, node: fx.Node) -> None:
        """Notes what a node costs and which units its result holds."""
        op = op_name(node).rstrip("_")
        if op == "linear" or op.startswith("conv"):
            self._layer(node)
            return
        sources = [source for source in node.all_input_nodes if source in self._units]
        if not sources:
            return
        self._units[node] = self._held(node, op, sources)
        if op in _FUSED and any(source in self._fusible for source in sources):
            self._fusible.add(node)
        elif op not in _FREE and isinstance(node.meta.get("val"), torch.Tensor):
            read = sources[0] if op in _READERS else node
            kind = "activation" if op in _ACTIVATIONS else "move"
            units = self._units[node]
            work = _elements(read) * _TOUCHES.get(op, 1.0) / max(len(units), 1)
            self.found.append((kind, work, (0, self.rows.add(units)), 1))

    def _layer(self, node: fx.Node) -> None:
        layer = next(self._layers)
        self._units[node] = layer.outputs
        self._fusible.add(node)
        inputs, outputs = self.rows.add(layer.inputs), self.rows.add(layer.outputs)
        work, width = layer.macs / len(layer.outputs), len(layer.inputs)
        if 1 < layer.groups == width:
            self.found.append(("depthwise", work, (0, outputs), 1))
            skipped = _elements(node.all_input_nodes[0]) - _elements(node)
            if skipped > 0:  # a stride reads more than it computes with
                self.found.append(("move", _STRIDED * skipped / width, (0, inputs), 1))
            return
        pixels = _elements(node) // len(layer.outputs)
        kind = "weights" if pixels == 1 else "grouped" if layer.groups > 1 else "conv"
        self.found.append((kind, work / width, (inputs, outputs), layer.groups))

    def _held(self, node: fx.Node, op: str, sources: list[fx.Node]) -> Units:
        """Units of a result: joined by a concatenation, else those of the argument that fits, else of the widest."""
        if op == "cat" and len(sources) > 1:
            return np.concatenate([self._units[source] for source in sources])
        value = node.meta.get("val")
        channels = value.shape[1] if isinstance(value, torch.Tensor) and value.dim() > 1 else -1
        held = [self._units[source] for source in sources]
        return next((units for units in held if len(units) == channels), max(held, key=len))


def _elements(node: fx.Node) -> int:
    """Returns the elements of a node's value per sample."""
    return math.prod(int(size) for size in node.meta["val"].shape[1:])
