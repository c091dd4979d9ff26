"""What a selection may touch: patterns of layers to prune or leave, and least widths."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from compressor.graph import ChannelGraph, ChannelGroup

__all__ = ["Limits", "floors", "may_cut"]


@dataclass(frozen=True)
class Limits:
    """Limits of a selection; a pattern is a shell pattern over layer names, such as `layer4.*`.

    A group belongs to the layers that make its channels; layers that only read them do not count.

    Attributes:
        include: where given, only groups of these layers are cut.
        exclude: groups of these layers stay whole.
        keep_min: pattern → least share (below 1) or number (1 and above) of units that stays.
        remove_branches: a residual branch whose groups have no floor above 1 may be cut to nothing.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep_min: Mapping[str, float] = field(default_factory=dict)
    remove_branches: bool = False


def may_cut(group: ChannelGroup, limits: Limits) -> bool:
    """Says whether units of a group may be cut."""
    if group.frozen is not None or _matches(group, limits.exclude):
        return False
    return not limits.include or _matches(group, limits.include)


def floors(graph: ChannelGraph, limits: Limits) -> list[int]:
    """Returns the least number of units of each group; at least 1.

    Raises:
        ValueError: a pattern names no layer that makes channels.
    """
    names = {name for group in graph.groups for name in (group.makers or group.layers)}
    for pattern in (*limits.include, *limits.exclude, *limits.keep_min):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"pattern {pattern!r} names no layer; layers are: {', '.join(sorted(names))}")
    least = []
    for group in graph.groups:
        if not may_cut(group, limits):
            least.append(group.size)
            continue
        asked = [v for pattern, v in limits.keep_min.items() if _matches(group, (pattern,))]
        counts = [math.ceil(v * group.size) if v < 1 else math.ceil(v) for v in asked]
        least.append(min(group.size, max([1, *counts])))
    return least


def _matches(group: ChannelGroup, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for name in (group.makers or group.layers) for pattern in patterns)
