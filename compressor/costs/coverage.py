"""What of a network can be cut, what was, and why the rest cannot."""

import json
from dataclasses import asdict, dataclass

import numpy as np

from compressor.costs.widths import planned_macs, planned_params, width_costs
from compressor.graph import ChannelGraph
from compressor.plan import PruningPlan

__all__ = ["Coverage", "GroupCoverage", "coverage", "coverage_to_json"]


@dataclass(frozen=True)
class GroupCoverage:
    """One group.

    Attributes:
        name: group name.
        units: units in the dense network.
        kept_units: units that stay.
        status: `free`, `cut` or `frozen`.
        reason: why it is frozen; None otherwise.
        reachable_macs: multiply-accumulates per sample that hang on the group's channels.
        layers: layers that hold them.
    """

    name: str
    units: int
    kept_units: int
    status: str
    reason: str | None
    reachable_macs: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """A whole network; counts per sample of the traced size.

    Attributes:
        groups: one entry per channel group.
        macs: multiply-accumulates of the dense network.
        kept_macs: of the network the plan leaves.
        params: parameters of the dense network.
        kept_params: of the network the plan leaves.
        reachable_macs_fraction: share of the dense macs that hang on channels which may be cut.
        unreached: parameters the traced run never used; they stay as they are.
    """

    groups: tuple[GroupCoverage, ...]
    macs: int
    kept_macs: int
    params: int
    kept_params: int
    reachable_macs_fraction: float
    unreached: tuple[str, ...]


def coverage(graph: ChannelGraph, plan: PruningPlan | None = None) -> Coverage:
    """Returns what can be cut of a network, and what a plan cuts."""
    tables = width_costs(graph)
    full = np.array([group.size for group in graph.groups], dtype=np.int64)
    frozen = np.array([group.frozen is not None for group in graph.groups], dtype=bool)
    keep = plan.keep if plan is not None else {}
    kept = np.array([len(keep.get(g.name, range(g.size))) for g in graph.groups], dtype=np.int64)
    macs = planned_macs(tables, full)
    rows = []
    for i, group in enumerate(graph.groups):
        without = full.copy()
        without[i] = 0
        status = "frozen" if group.frozen is not None else "cut" if kept[i] < group.size else "free"
        hanging = round(macs - planned_macs(tables, without))
        rows.append(GroupCoverage(group.name, group.size, int(kept[i]), status, group.frozen, hanging, group.layers))
    reachable = 1 - planned_macs(tables, np.where(frozen, full, 0)) / macs if macs else 0.0
    return Coverage(
        tuple(rows),
        round(macs),
        round(planned_macs(tables, kept)),
        round(planned_params(tables, full)),
        round(planned_params(tables, kept)),
        reachable,
        graph.unreached,
    )


def coverage_to_json(report: Coverage) -> str:
    """Returns the report as JSON text with plain keys."""
    return json.dumps(asdict(report))
