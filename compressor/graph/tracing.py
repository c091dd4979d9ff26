"""`trace`: channel ids pushed through the exported graph of a network.

Every node has one rule (`layer_rules`, `shape_rules`, `size_rules`, `value_rules`) that says what happens to the ids;
the joined ids become units, units with the same places become groups (`grouping`). Each step works on whole arrays, so
the time is linear in the graph. Sizes that the network's code may hold as numbers are settled by `probe`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from compressor.errors import GraphError
from compressor.graph.branches import find_branches
from compressor.graph.channel_graph import ChannelGraph
from compressor.graph.grouping import build_graph, parameter_aliases
from compressor.graph.ids import IdBook, Ids
from compressor.graph.layer_rules import LAYER_RULES
from compressor.graph.probe import Probe, fits_in_training, refine
from compressor.graph.program import Example, export
from compressor.graph.shape_rules import SHAPE_RULES
from compressor.graph.size_rules import SIZE_RULES
from compressor.graph.value_rules import VALUE_RULES, elementwise, is_elementwise, unknown
from compressor.graph.walk import ParameterAxes, Reading, Step, Tensor, Walk, WeightRef, op_name

__all__ = ["trace"]

_RULES = {**VALUE_RULES, **SHAPE_RULES, **SIZE_RULES, **LAYER_RULES}
_MAX_PROBES = 24  # each settles at least one line of code


def trace(model: nn.Module, example: Example) -> ChannelGraph:
    """Returns the channel graph of a network.

    Args:
        model: any module; it is not changed.
        example: what `forward` takes: one tensor, a tuple of positional inputs, or a mapping of keyword inputs.
            Only shapes and types matter; small images trace faster.

    Returns:
        The graph. What cannot be cut is in a frozen group that says why.

    Raises:
        GraphError: `torch.export` cannot follow the network; the message names the line.
    """
    program, strict = export(model, example)
    training = _training_program(model, example, program)
    reading = Reading()
    for _ in range(_MAX_PROBES):
        walk, graph = _attempt(model, program, training, reading)
        probe = Probe(model, example, program, strict, walk, graph)
        refined = refine(probe)
        if refined is None and training is not None and not reading.training_rigid and not fits_in_training(probe):
            refined = replace(reading, training_rigid=True)
        if refined is None:
            return replace(graph, branches=find_branches(walk, graph))
        reading = refined
    return _attempt(model, program, training, Reading(everything="its code fits no other channel counts"))[1]


def _attempt(
    model: nn.Module, program: ExportedProgram, training: ExportedProgram | None, reading: Reading
) -> tuple[Walk, ChannelGraph]:
    book = IdBook()
    parameters = ParameterAxes(book)
    walk = Walk(book, parameters, model, reading)
    shapes = _walk(walk, program)
    if training is not None:  # layers only training reaches, such as auxiliary heads, join the same ids
        before = set(parameters.axes)
        _walk(Walk(book, parameters, model), training)
        for path in sorted(set(parameters.axes) - before) if reading.training_rigid else ():
            for vector in parameters.axes[path].values():
                book.freeze(vector, "held by layers that only training reaches, by code that takes no other size")
    if reading.everything is not None:
        book.freeze(np.arange(book.num_ids), reading.everything)
    return walk, build_graph(walk, model, shapes)


def _training_program(model: nn.Module, example: Example, program: ExportedProgram) -> ExportedProgram | None:
    """Exports the training path too when evaluation leaves parameters unused (auxiliary heads)."""
    reached = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    inputs = program.graph_signature.inputs_to_parameters
    if all(name in reached for name in inputs):
        return None
    try:
        return export(model, example, training=True)[0]
    except GraphError:
        return None  # the graph lists them as unreached


def _walk(walk: Walk, program: ExportedProgram) -> tuple[tuple[int, ...], ...]:
    """Pushes ids through a program; returns the shapes of its outputs."""
    aliases = parameter_aliases(walk.module)
    signature = program.graph_signature
    state = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    shapes: list[tuple[int, ...]] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            walk.values[node] = _placeholder(walk, node, state, aliases, signature.inputs_to_lifted_tensor_constants)
        elif node.op == "call_function":
            walk.values[node] = _call(walk, node)
        elif node.op == "output":
            # Only what the caller sees; values written back to buffers are no outputs of the network.
            results = set(signature.user_outputs)
            for source in node.all_input_nodes:
                value = walk.values[source]
                if source.name in results and isinstance(value, Ids | WeightRef):
                    shapes.append(value.shape)
                    if isinstance(value, WeightRef):
                        walk.parameters.freeze(value, "network output")
                    else:
                        walk.book.freeze_all(value, "network output")
    return tuple(shapes)


def _placeholder(
    walk: Walk, node: fx.Node, state: Mapping[str, str], aliases: Mapping[str, str], constants: Mapping[str, Any]
) -> Tensor | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    shape = tuple(int(n) for n in value.shape)
    if node.name in state:
        path = aliases.get(state[node.name], state[node.name])
        if node.users:
            walk.parameters.reached.add(path)
        return WeightRef(path, shape)
    made = node.name in constants
    reason = "a constant made in the network's code" if made else "network input"
    fixed = [n > 1 if made else d == 1 for d, n in enumerate(shape)]
    axes = (walk.book.fixed(n, reason) if is_fixed else None for n, is_fixed in zip(shape, fixed, strict=True))
    return Ids(shape, tuple(axes))


def _call(walk: Walk, node: fx.Node) -> Any:  # Any: a tensor's ids, a list of them, or None
    if op_name(node) == "getitem":
        source, index = node.args
        assert isinstance(source, fx.Node)
        assert isinstance(index, int)
        values = walk.values[source]
        return values[index] if isinstance(values, list) else None
    step = Step(walk, node, _bind(walk, node))
    if not step.tensors() and not isinstance(node.meta.get("val"), torch.Tensor):
        return None
    if node.meta.get("val") is None:  # assertions of the exporter
        return None
    rule = _RULES.get(step.op) or (elementwise if is_elementwise(node) else unknown)
    try:
        value = rule(step)
    except GuardOnDataDependentSymNode as error:
        where = step.because(f"the shape of what {step.op} gives")
        raise GraphError(
            f"{type(walk.module).__name__} cannot be traced: {where} depends on the values in its input; keep masks, "
            "nonzero and the like out of forward, or prune the part of the network before them"
        ) from error
    if node.name in walk.reading.rigid:
        reason = step.because("the code here takes no other size")
        for tensor in [*step.tensors(), *(value if isinstance(value, list) else [value])]:
            walk.book.freeze_all(step.ids(tensor), reason)
    return value


def _bind(walk: Walk, node: fx.Node) -> dict[str, Any]:  # Any: whatever the operator's schema allows
    """Returns a call's arguments by name, defaults included, with ids in place of tensors."""
    schema = getattr(node.target, "_schema", None)

    def value(argument: Any) -> Any:  # Any: nodes, numbers, lists of both
        if isinstance(argument, fx.Node):
            return walk.values.get(argument)
        return [value(item) for item in argument] if isinstance(argument, list | tuple) else argument

    if schema is None:
        return {**{str(i): value(a) for i, a in enumerate(node.args)}, **{k: value(a) for k, a in node.kwargs.items()}}
    bound: dict[str, Any] = {}
    for i, parameter in enumerate(schema.arguments):
        if i < len(node.args):
            bound[parameter.name] = value(node.args[i])
        elif parameter.name in node.kwargs:
            bound[parameter.name] = value(node.kwargs[parameter.name])
        elif parameter.has_default_value():
            bound[parameter.name] = parameter.default_value
    return bound
