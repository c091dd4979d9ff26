"""From joined ids to units, and from units to groups: units with the same places form one group."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from compressor.graph.channel_graph import ChannelGraph, ChannelGroup, LayerChannels, Units
from compressor.graph.ids import Vector
from compressor.graph.walk import Call, Walk

__all__ = ["build_graph", "parameter_aliases"]


def parameter_aliases(model: nn.Module) -> dict[str, str]:
    """Returns path → first path of the same tensor, for parameters and buffers tied to an earlier one."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for path, tensor in named:
        known = first.setdefault(id(tensor), path)
        if known != path:
            aliases[path] = known
    return aliases


def build_graph(walk: Walk, model: nn.Module, outputs: tuple[tuple[int, ...], ...]) -> ChannelGraph:
    """Returns the graph of a finished walk; `outputs` are the shapes of the network's results."""
    root = walk.book.roots()
    makers = _makers(walk.calls, root)
    walk.book.freeze_made(root, np.array(list(makers), dtype=np.int64))
    code = walk.book.reasons(root)
    axes = {(path, dim): vector for path, known in walk.parameters.axes.items() for dim, vector in known.items()}
    places = _Places(axes, root)
    reasons = {
        unit: walk.book.reason_text(c) for unit, c in zip(places.units, code[places.units], strict=True) if c >= 0
    }
    reasons.update({u: text for u, text in _tied_whole(axes, root, places).items() if u not in reasons})
    members = _same_places(places, reasons)

    number = np.full(max(walk.book.num_ids, 1), -1, dtype=np.int64)  # unit root → global unit number
    groups: list[ChannelGroup] = []
    used: dict[str, int] = {}
    start = 0
    for units in members:
        number[units] = np.arange(start, start + len(units))
        layers = places.layers_of(int(units[0]))
        writers = makers.get(int(units[0]), {})
        name, width = next(iter(writers.items()), (layers[0], 1))
        used[name] = used.get(name, 0) + 1
        name = name if used[name] == 1 else f"{name}#{used[name]}"
        groups.append(ChannelGroup(name, start, len(units), layers, tuple(writers), reasons.get(int(units[0])), width))
        start += len(units)

    def units_of(vector: Vector) -> Units:
        return np.where(vector >= 0, number[root[np.maximum(vector, 0)]] if len(root) else -1, -1).astype(np.int64)

    calls = tuple(
        LayerChannels(c.name, c.kind, c.weight, units_of(c.inputs), units_of(c.outputs), c.groups, c.macs, c.norm)
        for c in walk.calls
    )
    dims = {**{p: t.dim() for p, t in model.named_parameters()}, **{p: t.dim() for p, t in model.named_buffers()}}
    table = {
        path: tuple(units_of(known[d]) if d in known else None for d in range(dims[path]))
        for path, known in walk.parameters.axes.items()
        if known
    }
    shapes = {path: tuple(parameter.shape) for path, parameter in model.named_parameters()}
    unreached = tuple(p for p, _ in model.named_parameters() if p not in walk.parameters.reached)
    return ChannelGraph(tuple(groups), calls, table, shapes, parameter_aliases(model), unreached, outputs)


class _Places:
    """Which units sit on which parameter axes, how often, and where first."""

    def __init__(self, axes: Mapping[tuple[str, int], Vector], root: Vector) -> None:
        self._names = [path for path, _ in axes]
        units, where, counts, firsts = [], [], [], []
        for i, vector in enumerate(axes.values()):
            held, first, count = np.unique(root[vector], return_index=True, return_counts=True)
            units.append(held)
            where.append(np.full(len(held), i))
            counts.append(count)
            firsts.append(first)
        empty = np.zeros(0, dtype=np.int64)
        self.unit = np.concatenate(units) if units else empty
        self.where = np.concatenate(where) if where else empty
        self.count = np.concatenate(counts) if counts else empty
        first_place = np.concatenate(firsts) if firsts else empty
        order = np.lexsort((self.where, self.unit))
        self.unit, self.where, self.count = self.unit[order], self.where[order], self.count[order]
        first_place = first_place[order]
        self.units, self.begin = np.unique(self.unit, return_index=True)
        self.end = np.append(self.begin[1:], len(self.unit)) if len(self.begin) else self.begin
        self.first_axis, self.first_place = self.where[self.begin], first_place[self.begin]

    def layers_of(self, unit: int) -> tuple[str, ...]:
        """Returns the modules that hold a unit, in order of first use."""
        at = int(np.searchsorted(self.units, unit))
        paths = [self._names[w] for w in self.where[self.begin[at] : self.end[at]]]
        return tuple(dict.fromkeys(_module(path) for path in paths))


def _module(path: str) -> str:
    prefix, _, leaf = path.rpartition(".")
    own = leaf in ("weight", "bias", "running_mean", "running_var")
    return prefix if own and prefix else path


def _same_places(places: _Places, reasons: Mapping[int, str]) -> Sequence[npt.NDArray[np.int64]]:
    """Returns units with equal places and equal reason, each list in the order of its first axis."""
    if not len(places.units):
        return []
    texts = {text: i for i, text in enumerate(dict.fromkeys(reasons.values()))}
    reason = np.array([texts[reasons[u]] if u in reasons else -1 for u in places.units.tolist()], dtype=np.int64)
    # Two independent 64-bit sums over (axis, count) stand for the list of places; equal sums by chance: 2^-128.
    keys = places.where.astype(np.uint64) << np.uint64(32) | places.count.astype(np.uint64)
    sums = [np.add.reduceat(_scramble(keys, salt), places.begin) for salt in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)]
    table = np.stack([*(s.view(np.int64) for s in sums), reason], axis=1)
    _, kind = np.unique(table, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    order = np.lexsort((places.first_place, places.first_axis, kind))
    cuts = np.flatnonzero(np.diff(kind[order])) + 1
    members = np.split(order, cuts)
    members.sort(key=lambda m: (places.first_axis[m[0]], places.first_place[m[0]]))
    return [places.units[m] for m in members]


def _scramble(keys: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.uint64]:
    """Returns well-mixed 64-bit numbers (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64(salt)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _tied_whole(axes: Mapping[tuple[str, int], Vector], root: Vector, places: _Places) -> dict[int, str]:
    """Returns units that fill a whole axis of several channels: cutting one would leave nothing there."""
    sizes = np.array([len(v) for v in axes.values()], dtype=np.int64)
    whole = (places.count == sizes[places.where]) & (places.count > 1)
    return dict.fromkeys(
        places.unit[whole].tolist(), "its channels are all tied together by splits and views in the code"
    )


def _makers(calls: Sequence[Call], root: Vector) -> dict[int, dict[str, int]]:
    """Returns unit → layers that write it and how many of their channels it is, in execution order."""
    made: dict[int, dict[str, int]] = {}
    for call in calls:
        if call.macs:
            units, counts = np.unique(root[call.outputs[call.outputs >= 0]], return_counts=True)
            for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
                made.setdefault(unit, {}).setdefault(call.name, count)
    return made
