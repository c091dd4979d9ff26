"""`quicken`: of all plans as good as one that was found, a faster one.

As good: the budget is still met within 2 % and not exceeded further, multiply-accumulates stay within 2 % below those
of the given plan, and the score given up exceeds its own by no more than the clock's slack. So time is saved where a
multiply-accumulate costs most of it (early layers, depthwise convolutions, unfused activations), not by cutting more.

Single steps of a group and pairs of steps are tried, most time saved per score given up first, until none saves time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressor.costs.widths import Counts
from compressor.select.budget import TOLERANCE
from compressor.select.clock import Clock
from compressor.select.search import Search, moved

__all__ = ["quicken"]

_STEPS = (-3, -2, -1, 1, 2, 3)  # widths a group moves at once
_LEAST = 1e-4  # a move that saves less of the latency is not worth a step of the search
_TRIED = 256  # of the most promising moves of a round, in the exact costs
_ROUNDS = 100  # each saves time, so the search ends by itself; this bounds it on very large networks

_Floats = npt.NDArray[np.float64]


def quicken(search: Search, counts: Counts, *, clock: Clock, macs: Callable[[Counts], float]) -> Counts:
    """Returns counts as good as the given ones whose predicted latency is no higher.

    Args:
        search: the problem; `counts` meet its target.
        counts: kept units of each group.
        clock: predicts latency.
        macs: multiply-accumulates of counts.
    """
    limits = _Limits.around(search, counts, clock, macs)
    for _ in range(_ROUNDS):
        better = _round(limits, counts)
        if better is None:
            break
        counts = better
    return counts


@dataclass(frozen=True, eq=False)
class _Limits:
    """What counts must keep to; values are (latency, budget's cost, macs, score lost)."""

    search: Search
    measures: tuple[Callable[[Counts], float], ...]
    low: _Floats
    high: _Floats

    @staticmethod
    def around(search: Search, counts: Counts, clock: Clock, macs: Callable[[Counts], float]) -> "_Limits":
        most = max(search.target, search.cost(counts))
        band = 1 - TOLERANCE
        low = np.array([0.0, band * search.target, band * macs(counts), -np.inf])
        high = np.array([np.inf, most, macs(counts), (1 + clock.slack) * search.lost(counts)])
        return _Limits(search, (clock.latency_ms, search.cost, macs, search.lost), low, high * (1 + 1e-12))

    def values(self, counts: Counts) -> _Floats:
        return np.array([measure(counts) for measure in self.measures])

    def hold(self, values: _Floats) -> npt.NDArray[np.bool_]:
        """Values: (…, 4)."""
        return np.asarray(((values >= self.low) & (values <= self.high)).all(axis=-1))


def _round(limits: _Limits, counts: Counts) -> Counts | None:
    """Returns counts after the best single and double steps, each group in one at most; None where none saves time."""
    now = limits.values(counts)
    singles = []
    for group, allowed in enumerate(limits.search.allowed):
        for by in _STEPS if len(allowed) > 1 else ():
            found = moved(limits.search, counts, group, by)
            if found is not None:
                singles.append((group, by, limits.values(found) - now))
    best, touched = counts, set[int]()
    for pair in _promising(limits, now, singles):
        groups = {singles[place][0] for place in pair}
        candidate: Counts | None = None if groups & touched else best
        for place in pair:
            candidate = None if candidate is None else moved(limits.search, candidate, *singles[place][:2])
        if candidate is None:
            continue
        values = limits.values(candidate)
        if limits.hold(values) and values[0] < now[0] * (1 - _LEAST):
            best, now = candidate, values
            touched |= groups
    return best if touched else None


def _promising(limits: _Limits, now: _Floats, singles: list[tuple[int, int, _Floats]]) -> list[tuple[int, ...]]:
    """Returns places of steps, alone or in pairs, that should save time within the limits, the best first.

    Args:
        limits: what to keep to.
        now: values of the present counts.
        singles: (group, widths to move by, change of the values) of each step.
    """
    if not singles:
        return []
    owner = np.array([group for group, _, _ in singles])
    change = np.array([change for _, _, change in singles])
    pairs = change[:, None] + change  # exact where the two share no layer
    alone = np.eye(len(singles), dtype=bool)
    pairs[alone] = change
    good = limits.hold(now + pairs) & (pairs[..., 0] < -_LEAST * now[0]) & ((owner[:, None] < owner) | alone)
    first, second = np.nonzero(good)
    # Time saved per score lost; what loses none comes first.
    saved, lost = -pairs[first, second, 0], pairs[first, second, 3]
    price = np.where(lost <= 0, np.inf, saved / np.maximum(lost, 1e-300))
    places = np.lexsort((-saved, -price))[:_TRIED]
    return [(a,) if a == b else (a, b) for a, b in zip(first[places].tolist(), second[places].tolist(), strict=True)]
