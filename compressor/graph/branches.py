"""Residual branches that may be cut to nothing: `out = activation(shortcut(x) + branch(x))`.

With no channels left, the branch's last layer puts out its bias, and what follows it (a batch norm, dropout) makes a
constant of that. A branch is listed where

1. one module holds exactly this: one input, one output, the sum, at most one activation after it;
2. the shortcut is the input itself or one child module;
3. the branch ends in a convolution or linear layer followed by nothing but child modules of one operator each, which
   work on each value (or, batch norms, on each channel) by itself;
4. all channels inside it live in no other part of the network and may be cut.
"""

from collections.abc import Sequence

from torch import fx, nn

from compressor.graph.channel_graph import Branch, ChannelGraph
from compressor.graph.value_rules import is_elementwise
from compressor.graph.walk import Walk, module_path, op_name

__all__ = ["find_branches"]

_LAST = {"conv1d", "conv2d", "conv3d", "linear"}


def find_branches(walk: Walk, graph: ChannelGraph) -> tuple[Branch, ...]:
    """Returns the removable branches of a walked network, in execution order."""
    calls = [n for n in walk.values if n.op == "call_function"]
    paths = {node: module_path(node) for node in calls}
    found = []
    for total in calls:
        if op_name(total) in ("add", "add_") and len(total.args) == 2 and not total.kwargs and paths[total]:
            region = [n for n in calls if _under(paths[n], paths[total])]
            branch = _branch(walk.module, graph, total, region)
            if branch is not None:
                found.append(branch)
    return tuple(found)


def _branch(module: nn.Module, graph: ChannelGraph, total: fx.Node, region: Sequence[fx.Node]) -> Branch | None:
    block, inside = module_path(total), set(region)
    sources = {n for node in region for n in node.all_input_nodes if n not in inside and not _is_state(n)}
    results = [node for node in region if any(user not in inside for user in node.users)]
    if len(sources) != 1 or len(results) != 1:
        return None
    (source,), (result,) = sources, results
    activation: str | None = None
    if result is not total:
        if result.all_input_nodes != [total] or len(total.users) != 1:
            return None
        child = module_path(result)
        if not isinstance(_module(module, child), nn.ReLU | nn.ReLU6 | nn.SiLU | nn.Hardswish | nn.GELU) and (
            child != block or op_name(result) not in ("relu", "relu_")
        ):
            return None
        activation = child if child != block else "relu"
    ends = total.all_input_nodes
    if len(ends) != 2 or any(end.meta["val"].shape != total.meta["val"].shape for end in ends):
        return None
    for end, short in (ends, ends[::-1]):
        shortcut = None if short is source else _child(block, short, inside, region)
        if (short is not source and shortcut is None) or end not in inside:
            continue
        held = _before(end, inside)
        left_out = inside - held - {total, result} - (_before(short, inside) if shortcut else set())
        if left_out or (shortcut and held & _before(short, inside)):
            continue
        last = _last_layer(module, block, end)
        if last is None:
            continue
        groups = _inner_groups(graph, last[0], {module_path(n) for n in held})
        if groups:
            return Branch(block, groups, last[0], last[1], shortcut, activation)
    return None


def _child(block: str, end: fx.Node, inside: set[fx.Node], region: Sequence[fx.Node]) -> str | None:
    """Returns the child module that makes `end` out of the block's input, all by itself."""
    held = _before(end, inside)
    if end not in inside or not held:
        return None
    parts = [module_path(n).split(".") for n in held]
    depth = 0
    while all(len(p) > depth and p[depth] == parts[0][depth] for p in parts):
        depth += 1
    path = ".".join(parts[0][:depth])
    same = {n for n in region if _under(module_path(n), path)}
    return path if _under(path, block) and path != block and same == held else None


def _last_layer(module: nn.Module, block: str, end: fx.Node) -> tuple[str, tuple[str, ...]] | None:
    """Returns (path of the branch's last layer, paths of the modules after it); None if something else comes after."""
    after: list[str] = []
    node = end
    while True:
        path = module_path(node)
        owner = _module(module, path)
        if owner is None or path == block or list(owner.children()):
            return None
        if op_name(node) in _LAST:
            is_layer = isinstance(owner, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
            return (path, tuple(reversed(after))) if is_layer else None
        if op_name(node) != "batch_norm" and not is_elementwise(node):
            return None
        data = [n for n in node.all_input_nodes if not _is_state(n)]
        if len(data) != 1 or len(data[0].users) != 1:
            return None
        after.append(path)
        node = data[0]
        if node.op != "call_function":
            return None


def _inner_groups(graph: ChannelGraph, last: str, paths: set[str]) -> tuple[str, ...]:
    """Returns the groups that live in the branch alone; empty where the last layer reads any other or a frozen one."""
    inner = [g for g in graph.groups if all(layer in paths for layer in g.layers)]
    units = {u for g in inner if g.frozen is None for u in range(g.start, g.start + g.size)}
    reads = [set(layer.inputs.tolist()) for layer in graph.layers if layer.name == last]
    if len(reads) != 1 or not reads[0] <= units or any(g.frozen is not None for g in inner):
        return ()
    return tuple(g.name for g in inner)


def _before(node: fx.Node, inside: set[fx.Node]) -> set[fx.Node]:
    """Returns the nodes of a region that a node is computed from, itself included."""
    seen: set[fx.Node] = set()
    todo = [node]
    while todo:
        at = todo.pop()
        if at in inside and at not in seen:
            seen.add(at)
            todo.extend(at.all_input_nodes)
    return seen


def _is_state(node: fx.Node) -> bool:
    return node.op == "placeholder" and node.name.startswith(("p_", "b_"))


def _module(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _under(path: str, block: str) -> bool:
    return path == block or path.startswith(f"{block}.")
