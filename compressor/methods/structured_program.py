"""A network's exported graph as a list of operators that can be run in parts, values kept between the runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from compressor.graph.program import export

__all__ = ["Call", "Env", "Program", "find_calls", "read_program", "run"]

# (path of a weight, which of the layer's calls, counted from 0)
Call = tuple[str, int]
Env = dict[str, Any]  # what each node computed, by its name: tensors, numbers, lists of tensors

_LAYERS = ("aten.conv", "aten.linear")


class Program:
    """The operators of a network in evaluation, for inputs of one shape.

    Attributes:
        nodes: In execution order; none changes its inputs in place.
        parameters: What the nodes that only read a tensor of the network give, by their names.
    """

    def __init__(self, nodes: Sequence[fx.Node], parameters: Env, structure: pytree.TreeSpec) -> None:
        self.nodes = tuple(nodes)
        self.parameters = parameters
        self._structure = structure

    @property
    def output(self) -> fx.Node:
        """The node whose inputs are what the network returns."""
        return self.nodes[-1]

    def result(self, env: Env) -> Any:  # whatever the network returns
        """Returns the network's output, in its own structure, from what the nodes gave."""
        flat = pytree.tree_leaves(fx.map_arg(self.output.args[0], lambda node: env[node.name]))
        return pytree.tree_unflatten(flat, self._structure)

    def with_ancestors(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Returns nodes and everything they are computed from."""
        found, left = set(), list(nodes)
        while left:
            node = left.pop()
            if node not in found:
                found.add(node)
                left += node.all_input_nodes
        return found

    def with_users(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Returns nodes and everything that is computed from them."""
        found, left = set(), list(nodes)
        while left:
            node = left.pop()
            if node not in found:
                found.add(node)
                left += list(node.users)
        return found


def read_program(model: nn.Module, example: Tensor) -> Program:
    """Returns the operators of a network, which stays as it is; weights are shared with it, not copied.

    Args:
        model: Any network.
        example: (N, C, H, W); the operators take inputs of exactly this shape.

    Raises:
        GraphError: The network cannot be exported.
    """
    program, _ = export(model, example)
    module = program.module(check_guards=False)
    if not _without_changes_in_place(module.graph):
        module = program.run_decompositions({}).module(check_guards=False)
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.view.default:  # of images in any layout
            node.target = torch.ops.aten.reshape.default
    parameters = {node.name: _attribute(module, str(node.target)) for node in module.graph.find_nodes(op="get_attr")}
    return Program(list(module.graph.nodes), parameters, program.call_spec.out_spec)


def find_calls(program: Program, aliases: Mapping[str, str]) -> dict[Call, fx.Node]:
    """Returns the convolutions and linear layers whose weight is a parameter.

    Args:
        program: Of the network.
        aliases: Path of a tied parameter -> the path by which it is called here.
    """
    calls: dict[Call, fx.Node] = {}
    seen: dict[str, int] = {}
    for node in program.nodes:
        if node.op != "call_function" or not str(node.target).startswith(_LAYERS):
            continue
        weight = node.args[1]
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            path = aliases.get(str(weight.target), str(weight.target))
            calls[path, seen.get(path, 0)] = node
            seen[path] = seen.get(path, 0) + 1
    return calls


def run(
    nodes: Sequence[fx.Node],
    env: Env,
    *,
    keep: frozenset[str] = frozenset(),
    special: Mapping[str, Callable[[Env], Any]] | None = None,
) -> None:
    """Changes `env`: computes nodes in order, and forgets what no later one of them reads.

    Args:
        nodes: Operators whose inputs are in `env`, or computed by earlier ones.
        env: Values by name of the node.
        keep: Names that are not forgotten.
        special: Name of a node -> what is done instead of its operator.
    """
    last: dict[str, int] = {}
    for place, node in enumerate(nodes):
        for source in (node, *node.all_input_nodes):
            last[source.name] = place
    for place, node in enumerate(nodes):
        if special is not None and node.name in special:
            env[node.name] = special[node.name](env)
        elif node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: env[source.name])
            assert callable(node.target)
            env[node.name] = node.target(*args, **kwargs)
        for source in (node, *node.all_input_nodes):
            if last[source.name] == place and source.name not in keep:
                env.pop(source.name, None)


def _without_changes_in_place(graph: fx.Graph) -> bool:
    """Gives every operator that writes into its first argument its twin that does not; says whether that was possible.

    A view of the argument, or an argument that is a view itself, would have to change too; there it is not.
    """
    place = {node: place for place, node in enumerate(graph.nodes)}
    for node in place:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        changed, twin = node.args[0], _twin(node.target)
        if twin is None or not isinstance(changed, fx.Node) or _is_view(changed):
            return False
        if any(_is_view(user) and place[user] < place[node] for user in changed.users):
            return False
        node.target = twin
        after = [user for user in changed.users if place[user] > place[node]]
        for user in after:
            user.replace_input_with(changed, node)
    return True


def _twin(target: Any) -> Any:  # operators of torch have no common type
    """The operator that does the same without changing its input."""
    name, overload = str(target).removeprefix("aten.").split(".")
    if not name.endswith("_") or not str(target).startswith("aten."):
        return None
    return getattr(getattr(torch.ops.aten, name[:-1], None), overload, None)


def _is_view(node: fx.Node) -> bool:
    """Whether a node's result may share memory with its input; parameters are shared with the network."""
    if node.op != "call_function":
        return node.op == "get_attr"
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return True
    return any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns)


def _attribute(module: nn.Module, target: str) -> Any:
    path, _, leaf = target.rpartition(".")
    return getattr(module.get_submodule(path), leaf)
