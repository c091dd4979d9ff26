"""A pruning plan: which units of each channel group stay, and which taps of kernels.

Plain data, stored as JSON, replayed on a fresh network.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from compressor.errors import PlanError

__all__ = ["KernelTaps", "PruningPlan", "check_plan", "plan_from_json", "plan_to_json"]

_FORMAT = 1


class Group(Protocol):
    """What a plan needs to know of a channel group; `ChannelGroup` has it."""

    @property
    def name(self) -> str:
        """Name, unique in the graph."""

    @property
    def size(self) -> int:
        """Number of units."""

    @property
    def frozen(self) -> str | None:
        """Why nothing may be cut, or None."""


class Graph(Protocol):
    """What a plan needs to know of a channel graph; `ChannelGraph` has it."""

    @property
    def groups(self) -> Sequence[Group]:
        """All groups."""


@dataclass(frozen=True)
class KernelTaps:
    """Rows and columns of a convolution's kernels that stay, evenly spaced.

    Attributes:
        size: (kh, kw) before.
        rows: ascending.
        columns: ascending.
    """

    size: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class PruningPlan:
    """Kept units of the groups that lose some; a group that is not listed stays whole.

    Attributes:
        keep: group name → kept unit indices, ascending; empty only where a whole branch goes.
        sizes: group name → units before the cut, for the same names.
        taps: convolution → what stays of its kernels, for those that become smaller or dilated.
    """

    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    taps: Mapping[str, KernelTaps] = field(default_factory=dict)


def check_plan(plan: PruningPlan, graph: Graph, *, removable: Sequence[str] = ()) -> None:
    """Checks that a plan fits a graph.

    Args:
        plan: the plan.
        graph: the graph it is meant for.
        removable: groups that may be cut to nothing.

    Raises:
        PlanError: it does not; the message lists every problem.
    """
    known = {group.name: group for group in graph.groups}
    problems: list[str] = []
    if set(plan.keep) != set(plan.sizes):
        problems.append(f"keep and sizes name different groups: {sorted(set(plan.keep) ^ set(plan.sizes))}")
    for name, kept in plan.keep.items():
        group = known.get(name)
        if group is None:
            problems.append(f"the network has no group {name!r}")
            continue
        size = plan.sizes.get(name, group.size)
        if size != group.size:
            problems.append(f"group {name!r} had {size} units when the plan was made and has {group.size} here")
        if list(kept) != sorted(set(kept)) or any(not 0 <= i < group.size for i in kept):
            problems.append(f"kept units of {name!r} must be ascending numbers from 0 to {group.size - 1}")
        if group.frozen is not None and len(kept) < group.size:
            problems.append(f"group {name!r} is frozen: {group.frozen}")
        if not kept and name not in removable:
            problems.append(f"group {name!r} would be left without channels")
    for name, taps in plan.taps.items():
        for places, size in ((taps.rows, taps.size[0]), (taps.columns, taps.size[1])):
            steps = {after - before for before, after in itertools.pairwise(places)}
            if not places or not 0 <= places[0] <= places[-1] < size or len(steps) > 1 or min(steps, default=1) < 1:
                problems.append(f"kept rows and columns of {name!r} must be evenly spaced places of {taps.size}")
    if problems:
        raise PlanError(f"the plan does not fit this network: {'; '.join(problems)}; prune this network anew")


def plan_to_json(plan: PruningPlan) -> str:
    """Returns the plan as JSON text."""
    groups = {name: {"size": plan.sizes[name], "keep": list(kept)} for name, kept in plan.keep.items()}
    taps = {name: asdict(kept) for name, kept in plan.taps.items()}
    return json.dumps({"format": _FORMAT, "groups": groups, **({"taps": taps} if taps else {})})


def plan_from_json(text: str) -> PruningPlan:
    """Returns the plan written by `plan_to_json`.

    Raises:
        PlanError: the text is not a plan, or of another format.
    """
    try:
        data: Any = json.loads(text)  # Any: JSON from outside, checked below
        if data["format"] != _FORMAT:
            raise PlanError(f"plan format {data['format']!r} is not known here; this version reads {_FORMAT}")
        keep = {str(n): tuple(int(i) for i in g["keep"]) for n, g in data["groups"].items()}
        sizes = {str(n): int(g["size"]) for n, g in data["groups"].items()}
        taps = {str(n): _taps(t) for n, t in data.get("taps", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"not a pruning plan ({type(error).__name__}: {error}); expected the JSON that a prune run saved"
        raise PlanError(message) from error
    return PruningPlan(keep, sizes, taps)


def _taps(values: dict[str, Any]) -> KernelTaps:  # JSON from outside; what does not fit raises
    height, width = (int(n) for n in values["size"])
    return KernelTaps((height, width), *(tuple(int(i) for i in values[name]) for name in ("rows", "columns")))
