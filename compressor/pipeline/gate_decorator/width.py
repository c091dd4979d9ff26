"""Stages train a network that is narrow already: what is masked is left out, and its place is kept in the full one.

A masked channel puts out 0 and gets no gradient, so leaving it out changes nothing but the time. The full network keeps
the numbering of channels, the plan and what a killed run goes on from.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from compressor.graph import ChannelGraph, Units
from compressor.graph.cut import Keep, kept_places
from compressor.methods.gate_decorator_convert import Gate
from compressor.plan import PruningPlan
from compressor.shrink import shrink

__all__ = ["held_units", "narrowed", "narrowed_gates", "write_back"]

# Odd widths train slowly. Measured on ResNet-56 at half of its MACs, one thread, AVX-512: a step takes 0.78 of the
# dense one's time at any width, 0.68 at multiples of 8, 0.64 at multiples of 16. A constant: a run must not depend on
# where it goes on.
_STEP = 8


def held_units(graph: ChannelGraph, keep: Keep) -> Keep:
    """Returns (units,) what a narrow network has: the live units, and masked ones up to the next multiple of 8.

    A group of which nothing is live has 8 masked units, so that its layers stay.
    """
    held = keep.copy()
    for group in graph.groups:
        live = keep[group.start : group.start + group.size]
        count = min(group.size, max(1, math.ceil(int(live.sum()) / _STEP)) * _STEP)
        masked = group.start + np.flatnonzero(~live)
        held[masked[: count - int(live.sum())]] = True
    return held


def narrowed(model: nn.Module, graph: ChannelGraph, gates: tuple[Gate, ...], held: Keep) -> nn.Module:
    """Returns a copy of a network with gates that has the held units only.

    Args:
        model: the full network, with these gates.
        graph: channel graph of the plain network.
        gates: their places.
        held: (units,) booleans, at least one of each group.
    """
    kept = {g.name: np.flatnonzero(held[g.start : g.start + g.size]) for g in graph.groups}
    cut = [g for g in graph.groups if len(kept[g.name]) < g.size]
    plan = PruningPlan({g.name: tuple(kept[g.name].tolist()) for g in cut}, {g.name: g.size for g in cut})
    return shrink(model, replace(graph, axes=_axes(model, graph, gates)), plan)


def narrowed_gates(gates: tuple[Gate, ...], held: Keep) -> tuple[Gate, ...]:
    """Returns the gates of the narrow network; their units keep the numbers they have in the full one."""
    return tuple(replace(gate, units=gate.units[kept_places(gate.units, held)]) for gate in gates)


def write_back(
    model: nn.Module, narrow: nn.Module, *, graph: ChannelGraph, gates: tuple[Gate, ...], held: Keep
) -> None:
    """Changes `model`: what the narrow network has learned takes its place in the full one.

    Args:
        model: the full network.
        narrow: what `narrowed` made of it, trained.
        graph: channel graph of the plain network.
        gates: of the full network.
        held: as `narrowed` was told.
    """
    axes = _axes(model, graph, gates)
    state = narrow.state_dict()
    with torch.no_grad():
        for path, whole in model.state_dict().items():
            part = state[path].to(whole.device)
            if part.shape == whole.shape:
                whole.copy_(part)
                continue
            places = [
                torch.arange(size) if units is None else torch.as_tensor(kept_places(units, held))
                for size, units in zip(whole.shape, axes[graph.aliases.get(path, path)], strict=True)
            ]
            whole[torch.meshgrid(*places, indexing="ij")] = part


def _axes(model: nn.Module, graph: ChannelGraph, gates: tuple[Gate, ...]) -> Mapping[str, tuple[Units | None, ...]]:
    """Where units are in a network with gates: as in the plain one, and in the gates' own tensors."""
    tensors = {*dict(model.named_parameters()), *dict(model.named_buffers())}
    own = {f"{gate.name}.{leaf}": (gate.units,) for gate in gates for leaf in ("gate", "mask")}
    return {**graph.axes, **{path: units for path, units in own.items() if path in tensors}}
