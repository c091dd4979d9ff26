"""The state of one reading of an ONNX graph: constants, shapes, and the steps so far.

Shapes are found by doing every step as it is added, on torch's meta device: the same code that will run, without
numbers. What depends on constants and shapes alone is worked out at once, by ONNX's reference implementation.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn

from compressor.errors import OnnxError
from compressor.onnx_in.layers import make_layer
from compressor.onnx_in.naming import Names
from compressor.onnx_in.network import run_step
from compressor.onnx_in.program import Operand, Program, Step

__all__ = ["Array", "Node", "Reader"]

Array = npt.NDArray[Any]

# What a constant that meets activations may be.
_CONSTANT_TYPES = ("float32", "int64", "int32", "bool")


class Node:
    """One node as the rules of the ops see it.

    Attributes:
        op: Its operation.
        inputs: Names; empty for an optional input that is left out.
        outputs: Names.
        version: Of the standard ops.
    """

    def __init__(self, proto: NodeProto, version: int) -> None:
        self._proto = proto
        self.op = proto.op_type
        self.name = proto.name
        self.inputs = tuple(proto.input)
        self.outputs = tuple(proto.output)
        self.version = version
        self.notes = {entry.key: entry.value for entry in proto.metadata_props}
        self._attributes = {entry.name: helper.get_attribute_value(entry) for entry in proto.attribute}

    def __str__(self) -> str:
        return f"node '{self.name or self.outputs[0]}' ({self.op})"

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute's value, texts as `str`."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, place: int) -> str:
        """Name of an input; empty where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""

    def refuse(self, why: str) -> OnnxError:
        """The error that names this node."""
        return OnnxError(f"{self} {why}")


class Reader:
    """Collects the steps of a graph.

    Args:
        model: Checked; its weights are at hand.
        shape: (N, ...) of the one input.
    """

    def __init__(self, model: ModelProto, shape: Sequence[int]) -> None:
        graph = model.graph
        self._reads = collections.Counter(name for node in graph.node for name in node.input)
        self._reads.update(value.name for value in graph.output)
        held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        (self.input,) = (value.name for value in graph.input if value.name not in held)
        self.constants: dict[str, Array] = held
        self.values: dict[str, Tensor] = {self.input: torch.empty(tuple(shape), device="meta")}
        self.aliases: dict[str, str] = {}
        self.steps: list[Step] = []
        self.state: dict[str, Tensor] = {}
        self.names = Names()
        self._fixed: dict[str, tuple[str, Array]] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of a value or constant."""
        name = self.resolved(name)
        return tuple(self.constants[name].shape if name in self.constants else self.values[name].shape)

    def resolved(self, name: str) -> str:
        """The value itself, where a node like Identity has given it another name."""
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def alias(self, name: str, of: str) -> None:
        """From now on `name` is another name of a value."""
        self.aliases[name] = self.resolved(of)

    def is_constant(self, name: str) -> bool:
        """Says whether a value is known already; an input that is left out is."""
        return not name or self.resolved(name) in self.constants

    def constant(self, node: Node, place: int) -> Array | None:
        """Returns a constant input; None where it is left out.

        Raises:
            OnnxError: It depends on the image.
        """
        name = node.input(place)
        if not name:
            return None
        if not self.is_constant(name):
            raise node.refuse(f"has an input '{name}' that depends on the image; it can be read where it is constant")
        return self.constants[self.resolved(name)]

    def operand(self, name: str, *, rank: int = 0) -> Operand:
        """A value, or a constant as a number or a buffer, to be used as a step's input.

        Args:
            name: Of the value or constant.
            rank: Dimensions of what it meets; one number with more dimensions than that stays a tensor.
        """
        name = self.resolved(name)
        if name not in self.constants:
            return name
        value = self.constants[name]
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        if value.size == 1 and value.ndim <= max(rank, 0):
            number = value.reshape(()).item()
            assert isinstance(number, int | float | bool)
            return number
        if str(value.dtype) not in _CONSTANT_TYPES:
            raise OnnxError(f"constant '{name}' is {value.dtype}; allowed are {', '.join(_CONSTANT_TYPES)}")
        if name not in self._fixed:
            key = f"constant_{len(self._fixed)}"
            self._fixed[name] = (key, value)
            self.state[key] = torch.from_numpy(np.array(value, order="C"))
            self.values[key] = self.state[key].to("meta")
        return self._fixed[name][0]

    def layer(
        self,
        node: Node,
        kind: str,
        settings: Mapping[str, Any],  # JSON values
        *,
        source: str | None = None,
        result: str | None = None,
        weights: Mapping[str, Array] | None = None,
        weight_name: str = "",
    ) -> str:
        """Adds a module and returns its path.

        Args:
            node: What it is made from.
            kind: A name in `LAYERS`.
            settings: Arguments of its class.
            source: Value that it reads; the node's first input if absent.
            result: Value that it makes; the node's first output if absent.
            weights: Its parameters and buffers under their own names.
            weight_name: What the file calls its weight.
        """
        weights = weights or {}
        # Exporters store equal tensors once: the name then is that of only one of the layers that read it.
        own = weight_name if self._reads[weight_name] <= 1 else ""
        name = self.names.layer(op=node.op, node=node.name, weight=own, notes=node.notes)
        given = self.resolved(node.inputs[0] if source is None else source)
        self._add(node, Step(kind, (given,), (result or node.outputs[0],), dict(settings), name))
        for key, value in weights.items():
            kind_of = np.float32 if value.dtype.kind == "f" else value.dtype
            self.state[f"{name}.{key}"] = torch.from_numpy(np.array(value, dtype=kind_of, order="C"))
        return name

    def function(
        self,
        node: Node,
        kind: str,
        inputs: Sequence[Operand] | None = None,
        *,
        outputs: Sequence[str] | None = None,
        **settings: Any,  # JSON values
    ) -> str:
        """Adds a plain function and returns the name of its (first) result.

        Args:
            node: What it is made from.
            kind: A name in `FUNCTIONS`.
            inputs: Values and numbers; the node's first input if absent.
            outputs: The node's if absent.
            **settings: Keywords of the function.
        """
        given = (self.resolved(node.inputs[0]),) if inputs is None else tuple(inputs)
        made = node.outputs if outputs is None else tuple(outputs)
        self._add(node, Step(kind, given, made, settings))
        return made[0]

    def reads(self, name: str) -> int:
        """How many nodes, and outputs of the graph, read a value under this name."""
        return self._reads[name]

    def take_back(self) -> dict[str, Tensor]:
        """Removes the last step, a layer, and returns its weights by their own names."""
        step = self.steps.pop()
        self.names.forget(step.name)
        mine = [path for path in self.state if path.rpartition(".")[0] == step.name]
        return {path.rpartition(".")[2]: self.state.pop(path) for path in mine}

    def fresh(self, node: Node, what: str) -> str:
        """A name for a value between two steps of one node."""
        return f"{node.outputs[0]}:{what}"

    def program(self, output: str) -> Program:
        """Returns the steps, without those whose results nobody reads.

        Args:
            output: The graph's output.
        """
        output, needed, kept = self.resolved(output), set[str](), list[Step]()
        needed.add(output)
        for step in reversed(self.steps):
            if needed.intersection(step.outputs):
                kept.append(step)
                needed.update(step.values)
        used = {key: value for key, value in self._fixed.values() if key in needed}
        about = {key: {"shape": list(value.shape), "dtype": str(value.dtype)} for key, value in used.items()}
        layers = {step.name for step in kept if step.name}
        self.state = {
            path: value for path, value in self.state.items() if path in about or path.rpartition(".")[0] in layers
        }
        return Program(self.input, output, tuple(reversed(kept)), about)

    def _add(self, node: Node, step: Step) -> None:
        try:
            with torch.no_grad():
                layer = _hollow_layer(step) if step.name else None
                results = run_step(step, [self.values[o] if isinstance(o, str) else o for o in step.inputs], layer)
        except OnnxError:
            raise
        except Exception as error:  # torch raises many unrelated classes for sizes that do not fit
            text = " ".join(str(error).split())
            raise node.refuse(f"does not fit its input: {type(error).__name__}: {text}") from error
        self.values.update(zip(step.outputs, results, strict=True))
        self.steps.append(step)


def _hollow_layer(step: Step) -> nn.Module:
    with torch.device("meta"):
        return make_layer(step.kind, step.settings).eval()
