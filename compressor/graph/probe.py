"""Are sizes in the network's code numbers, or do they follow the channels? Cut something and look.

A shape operator in the exported graph shows only the numbers of this run: `x.view(1, 2, 58, h, w)` may come from
`x.shape` or be written in `forward`. So a hollow copy of the network is cut at random places and exported again; every
operator must come out as the ids say, with the same numbers.

1. The nearest operator with sizes of its own, at or before the first that does not, takes its next reading, together
   with all others made by the same line.
2. Where there is none (an assertion, a number computed from a channel count), the operators of that line become rigid.
3. Where that does not help either, nothing of the network is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from compressor.errors import GraphError
from compressor.graph.channel_graph import ChannelGraph
from compressor.graph.cut import Keep, cut, hollow
from compressor.graph.ids import Ids
from compressor.graph.layer_rules import LAYER_RULES
from compressor.graph.program import Example, blamed_frames, export
from compressor.graph.shape_rules import SHAPE_RULES
from compressor.graph.size_rules import SIZE_RULES
from compressor.graph.value_rules import CONSTANT_MAKERS
from compressor.graph.walk import Reading, Walk, op_name, source_line, source_lines

__all__ = ["Probe", "fits_in_training", "refine"]


@dataclass(frozen=True)
class Probe:
    """One reading of a network, to be tried out; `strict` is the way its program was exported."""

    model: nn.Module
    example: Example
    program: ExportedProgram
    strict: bool
    walk: Walk
    graph: ChannelGraph


def refine(probe: Probe) -> Reading | None:
    """Returns the reading to try next, or None when the cut network does as the ids say."""
    keep = _random_cut(probe.graph)
    if keep.all():
        return None
    slim = hollow(probe.model)
    cut(slim, probe.graph, keep)
    try:
        program, _ = export(slim, probe.example, strict=[probe.strict])
    except GraphError as error:
        for file, line, _ in reversed(blamed_frames(error.__cause__ or error)):
            reached = [node for node in probe.walk.values if (file, line) in source_lines(node)]
            if reached and (reading := _blame(probe, reached)) is not None:
                return reading
        return _give_up(probe, "its code fits no other channel counts")
    wrong = _first_difference(probe, program, keep)
    if wrong is None:
        return None
    node, of_size = wrong
    reading = _blame(probe, [node]) if of_size else _stiffen(probe, [node])
    return reading or _give_up(probe, "its code computes with channel counts")


def fits_in_training(probe: Probe) -> bool:
    """Says whether the cut network's training path still runs."""
    slim = hollow(probe.model)
    cut(slim, probe.graph, _random_cut(probe.graph))
    try:
        export(slim, probe.example, training=True)
    except GraphError:
        return False
    return True


def _blame(probe: Probe, nodes: list[fx.Node]) -> Reading | None:
    """Returns the next reading of the flexible nodes nearest to some nodes, or those rigid; None when they are."""
    modes = probe.walk.reading.modes
    guilty = _nearest(probe, nodes)
    if not guilty:
        return _stiffen(probe, nodes)
    # Another reading first, so that one ambiguous view does not freeze its neighbours on the same line.
    guilty = [n for n in guilty if modes.get(n.name, 0) + 1 < probe.walk.flexible[n.name]] or guilty
    return replace(probe.walk.reading, modes={**modes, **{n.name: modes.get(n.name, 0) + 1 for n in guilty}})


def _stiffen(probe: Probe, nodes: Sequence[fx.Node]) -> Reading | None:
    names = frozenset(node.name for node in nodes if node.op == "call_function")
    if names <= probe.walk.reading.rigid:
        return None
    return replace(probe.walk.reading, rigid=probe.walk.reading.rigid | names)


def _give_up(probe: Probe, reason: str) -> Reading:
    return replace(probe.walk.reading, everything=reason)


def _random_cut(graph: ChannelGraph) -> Keep:
    generator = np.random.default_rng(0)
    keep = np.ones(graph.num_units, dtype=bool)
    for group in graph.groups:
        if group.frozen is None and group.size > 1:
            gone = generator.integers(1, max(2, group.size // 2 + 1))
            keep[group.start + generator.choice(group.size, gone, replace=False)] = False
    return keep


def _flexible(probe: Probe) -> list[fx.Node]:
    """Returns the nodes that have a reading left."""
    modes, flexible = probe.walk.reading.modes, probe.walk.flexible
    return [n for n in probe.walk.values if n.name in flexible and modes.get(n.name, 0) < flexible[n.name]]


def _nearest(probe: Probe, nodes: list[fx.Node]) -> list[fx.Node]:
    """Walks back from nodes to the first flexible ones; returns all flexible nodes of their lines."""
    flexible, seen = set(_flexible(probe)), set(nodes)
    while nodes:
        lines = {source_line(node) for node in nodes if node in flexible}
        if lines:
            return [node for node in flexible if source_line(node) in lines]
        nodes = [n for node in nodes for n in node.all_input_nodes if n not in seen]
        seen.update(nodes)
    return []


def _first_difference(probe: Probe, program: ExportedProgram, keep: Keep) -> tuple[fx.Node, bool] | None:
    """Returns (first node of the dense program whose slim counterpart is not what the ids say, whether by its size)."""
    root = probe.walk.book.roots()
    keep_id = _kept_ids(probe, keep, root)
    dense_nodes: list[fx.Node] = [n for n in probe.program.graph.nodes if n.op == "call_function"]
    slim_nodes: list[fx.Node] = [n for n in program.graph.nodes if n.op == "call_function"]
    for dense, slim in zip(dense_nodes, slim_nodes, strict=False):
        if dense.target != slim.target or not _same_sizes(probe, dense, slim, keep_id):
            return dense, True
        if _numbers(dense) != _numbers(slim):
            return dense, False
    return None if len(dense_nodes) == len(slim_nodes) else (dense_nodes[-1], True)


def _same_sizes(probe: Probe, dense: fx.Node, slim: fx.Node, keep_id: Keep) -> bool:
    """Says whether a node's results, and the start of a slice, are what the ids say."""
    if dense.name in probe.walk.starts:
        before = probe.walk.starts[dense.name]
        if _start(slim) != int((keep_id[before] | (before < 0)).sum()):
            return False
    value, result = probe.walk.values.get(dense), slim.meta.get("val")
    for ids, tensor in zip(_listed(value), _listed(result), strict=False):
        if isinstance(ids, Ids) and isinstance(tensor, torch.Tensor) and tuple(tensor.shape) != _shape(ids, keep_id):
            return False
    return True


def _listed(value: Any) -> list[Any]:  # Any: ids or tensors, one or several
    return list(value) if isinstance(value, list | tuple) else [value]


def _numbers(node: fx.Node) -> list[object]:
    """Returns the numbers a node computes with; sizes and layer settings, which follow a cut, are not among them."""
    name = op_name(node)
    if name in LAYER_RULES or name in SHAPE_RULES or name in SIZE_RULES:
        return []
    if name in CONSTANT_MAKERS:  # its size follows, its value must not
        return [node.args[-1]] if name in ("full", "new_full") else []
    return [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, int | float)]


def _kept_ids(probe: Probe, keep: Keep, root: np.ndarray) -> Keep:
    """Returns for each id whether the cut keeps it."""
    kept = np.ones(max(len(root), 1), dtype=bool)
    for path, axes in probe.graph.axes.items():
        for dim, units in enumerate(axes):
            if units is not None:
                inside = units >= 0
                kept[root[probe.walk.parameters.axes[path][dim][inside]]] = keep[units[inside]]
    return kept[root] if len(root) else kept


def _shape(ids: Ids, keep_id: Keep) -> tuple[int, ...]:
    sizes = zip(ids.shape, ids.axes, strict=True)
    return tuple(n if v is None else int((keep_id[np.maximum(v, 0)] | (v < 0)).sum()) for n, v in sizes)


def _start(node: fx.Node) -> int:
    tensor, dim, start = (*node.args, None)[:3]
    assert isinstance(tensor, fx.Node)
    assert isinstance(dim, int)
    return slice(start, None).indices(tensor.meta["val"].shape[dim])[0]
