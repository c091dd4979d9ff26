"""Which layers of a float file with FBS layers become int8, and which of its tensors bytes."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from exporters import opset
from exporters.calibration import Array
from exporters.nodes import attributes_of, is_op

__all__ = ["Int8Plan", "works_on_bytes"]

_ON_BYTES = ("Transpose", "MaxPool")  # standard ops that give of bytes what they give of the floats they stand for
_MOST_TERMS = 65793  # products that an int32 holds: as runtime/csrc/int8_layer.h has it
_MOST_TAPS = 514  # of a depthwise filter: float32 holds a sum of so many products exactly
_MOST_LEFT_OUT = 65535  # steps of X that E may be
_NOT_FINITE = "its values are not finite on the calibration images"
_MOST_CHEAP_WEIGHTS = 1 << 18  # of a linear layer that stays float: 0.03 ms, a megabyte


def works_on_bytes(node: NodeProto) -> bool:
    """Whether a standard op gives of bytes what it gives of the floats that they stand for."""
    return not node.domain and node.op_type in _ON_BYTES


class Int8Plan:
    """What becomes of each layer, and of the tensors between them.

    Attributes:
        refused: Name of an FBS layer or depthwise convolution that cannot be int8 -> why.
        linear: Names of the linear layers whose weights become whole numbers; a Gemm multiplies them with bytes.
        wanted: Float tensors that a layer in int8 reads in the end, through what works on bytes.
        behind: Name of an FBS layer in int8 -> the DepthwiseConv that becomes a part of it.
    """

    def __init__(self, model: ModelProto, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.refused: dict[str, str] = {}
        self._graph, self._ranges = model.graph, ranges
        self._held = {tensor.name: tensor for tensor in model.graph.initializer}
        self.linear = {node.name for node in model.graph.node if self._has_many_weights(node)}
        self.wanted = self._wanted_as_bytes()
        self.behind = self._depthwise_behind()

    def step(self, name: str) -> float:
        """That of a tensor whose range becomes 256 bytes."""
        low, high = self._ranges[name]
        return float(np.float32((max(high, 0.0) - min(low, 0.0)) / 255)) or 1.0

    def left_out(self, node: NodeProto, step: float) -> Array:
        """E of an FBSConv in steps of X, whole numbers; empty without one."""
        name = opset.FBS_CONV.given(node.input).get("E")
        return np.rint(numpy_helper.to_array(self._held[name]) / step) if name else np.empty(0, np.float32)

    def _wanted_as_bytes(self) -> set[str]:
        wanted: set[str] = set()
        for node in reversed(self._graph.node):
            if is_op(node, opset.FBS_CONV):
                wanted.update(node.input[:1] if self._allows(node) else ())
            elif node.name in self.linear:
                wanted.update(() if is_op(node, opset.LINEAR) else node.input[:1])
            elif node.output[0] in wanted:
                if is_op(node, opset.UNPACK) or works_on_bytes(node):
                    wanted.add(node.input[0])
                elif is_op(node, opset.UNPACK_ADD) and self._adds_bytes(node):
                    wanted.update((node.input[0], node.input[2]))
                else:  # made as floats
                    wanted.discard(node.output[0])
        return wanted

    def _has_many_weights(self, node: NodeProto) -> bool:
        """Whether a linear layer is one whose weights become int8."""
        linear, gemm = is_op(node, opset.LINEAR), not node.domain and node.op_type == "Gemm"
        weight = self._held.get(node.input[2 if linear else 1]) if linear or gemm else None
        if weight is None or np.prod(weight.dims) <= _MOST_CHEAP_WEIGHTS:
            return False
        values = attributes_of(node)
        plain = not values.get("transA", 0) and values.get("alpha", 1.0) == values.get("beta", 1.0) == 1.0
        terms = weight.dims[1 if values.get("transB", 0) else 0]
        return linear or bool(plain and terms <= _MOST_TERMS and self._finite(node.input[0]))

    def _adds_bytes(self, node: NodeProto) -> bool:
        """Whether a residual sum can be one of bytes: onto dense planes."""
        return len(node.input) == len(opset.UNPACK_ADD_INT8.inputs) and self._finite(*node.input[::2], node.output[0])

    def _finite(self, *names: str) -> bool:
        return all(np.isfinite(self._ranges.get(name, (np.nan,))).all() for name in names)

    def _allows(self, node: NodeProto) -> bool:
        """Whether a layer can be int8; otherwise the reason is kept."""
        terms = int(np.prod(self._held[node.input[2]].dims[1:]))
        if terms > _MOST_TERMS:
            self.refused[node.name] = f"an output sums up {terms} products, and int32 holds {_MOST_TERMS}"
        elif not self._finite(node.input[0], node.output[0]):
            self.refused[node.name] = _NOT_FINITE
        elif (most := np.abs(self.left_out(node, self.step(node.input[0]))).max(initial=0)) > _MOST_LEFT_OUT:
            self.refused[node.name] = (
                f"a channel that is absent counts with {most:.0f} steps, at most {_MOST_LEFT_OUT} may"
            )
        return node.name not in self.refused

    def _depthwise_behind(self) -> dict[str, NodeProto]:
        """`behind`; of others the reason is kept."""
        graph, found = self._graph, {}
        read = Counter(name for node in graph.node for name in node.input)
        read.update(value.name for value in graph.output)
        layers = {node.output[0]: node for node in graph.node if is_op(node, opset.FBS_CONV)}
        for node in graph.node:
            layer = layers.get(node.input[0]) if is_op(node, opset.DEPTHWISE_CONV) else None
            if layer is None or layer.name in self.refused:
                continue
            outputs, taps = self._held[layer.input[2]].dims[0], int(np.prod(self._held[node.input[2]].dims[2:]))
            if node.input[1] != layer.output[1] or attributes_of(node)["channels"] != outputs:
                continue
            if read[node.input[0]] > 1:
                self.refused[node.name] = "others read its layer's planes too"
            elif taps > _MOST_TAPS:
                self.refused[node.name] = f"a filter has {taps} weights, and at most {_MOST_TAPS} are summed exactly"
            elif not self._finite(node.output[0]):
                self.refused[node.name] = _NOT_FINITE
            else:
                found[layer.name] = node
        return found
