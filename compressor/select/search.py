"""The search behind `select`: kept counts of each group whose cost comes nearest to a target from below.

1. All units that may be cut are ranked together, least score first; the shortest prefix of that ranking is cut which
   brings the cost within the target (bisection), each group rounded to the nearest width the target likes.
2. Single groups step down (least score lost per cost saved) until the cost fits, then up (most score per cost) as long
   as it does; where widths are coarse, a pair of steps closes the rest, or settling with one group held a step aside.

Groups of one residual branch reach nothing together and leave it together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from compressor.costs.widths import Counts
from compressor.select.budget import TOLERANCE

__all__ = ["Search", "moved", "search_counts"]

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Search:
    """One selection problem.

    Attributes:
        allowed: counts each group may have, ascending.
        scores: (units,) of each group, best first.
        cost: cost of counts.
        target: what the cost should be.
        branches: groups that are cut to nothing together only.
    """

    allowed: list[Counts]
    scores: list[_Floats]
    cost: Callable[[Counts], float]
    target: float
    branches: list[list[int]] = field(default_factory=list)

    def off(self, counts: Counts) -> float:
        """Relative distance of counts from the target."""
        return abs(self.cost(counts) - self.target) / self.target

    def lost(self, counts: Counts) -> float:
        """Score of the units that counts leave out."""
        return float(sum(scores[n:].sum() for scores, n in zip(self.scores, counts.tolist(), strict=True)))


def search_counts(search: Search) -> Counts:
    """Returns the kept counts; nearest to the target where it cannot be met."""
    counts = _settle(search, _prefix(search))
    return counts if search.off(counts) <= TOLERANCE else _close(search, counts)


def _prefix(search: Search) -> Counts:
    """Cuts units in ascending score until the cost is within the target; rounds each group."""
    full = np.array([a[-1] for a in search.allowed], dtype=np.int64)
    free = [g for g, a in enumerate(search.allowed) if len(a) > 1]
    if not free:
        return full
    merged = np.concatenate([search.scores[g] for g in free])
    owner = np.concatenate([np.full(len(search.scores[g]), g) for g in free])
    order = owner[np.argsort(merged, kind="stable")]
    downward = [a[::-1] for a in search.allowed]  # halfway between two widths the larger one is taken

    def rounded(cut: int) -> Counts:
        wanted = full - np.bincount(order[:cut], minlength=len(full))
        counts = np.array([a[np.abs(a - n).argmin()] for a, n in zip(downward, wanted, strict=True)], dtype=np.int64)
        for branch in search.branches:
            if (counts[branch] == 0).any():
                counts[branch] = 0
        return counts

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if search.cost(rounded(middle)) > search.target:
            low = middle + 1
        else:
            high = middle
    return rounded(low)


def moved(search: Search, counts: Counts, group: int, by: int) -> Counts | None:
    """Returns counts with one group `by` allowed steps away, with its branch where that goes or comes back."""
    allowed = search.allowed[group]
    at = int(np.searchsorted(allowed, counts[group])) + by
    if not 0 <= at < len(allowed):
        return None
    result = counts.copy()
    result[group] = allowed[at]
    for branch in search.branches:
        if group in branch and 0 in (counts[group], result[group]):
            for other in branch:
                result[other] = 0 if result[group] == 0 else search.allowed[other][1]
    return result


def _moves(search: Search, counts: Counts, by: int) -> list[tuple[Counts, float]]:
    """Returns (counts, cost) after every single move."""
    found = [moved(search, counts, g, by) for g, a in enumerate(search.allowed) if len(a) > 1]
    return [(result, search.cost(result)) for result in found if result is not None]


def _settle(search: Search, counts: Counts) -> Counts:
    """Steps groups down until the cost fits, then up while it does."""

    def price(move: tuple[Counts, float]) -> float:
        """Score per cost."""
        change = move[0] - counts
        groups = np.flatnonzero(change)
        score = sum(search.scores[g][min(counts[g], move[0][g]) : max(counts[g], move[0][g])].sum() for g in groups)
        return float(score) / max(abs(now - move[1]), 1e-12)

    while (now := search.cost(counts)) > search.target and (moves := _moves(search, counts, -1)):
        counts = min(moves, key=price)[0]
    while True:
        now = search.cost(counts)
        fitting = [move for move in _moves(search, counts, +1) if move[1] <= search.target]
        if not fitting:
            return counts
        counts = max(fitting, key=price)[0]


def _close(search: Search, counts: Counts) -> Counts:
    """Takes the best single move or pair of moves as long as it brings the cost nearer to the target."""
    while search.off(counts) > TOLERANCE:
        singles = [single for by in (-1, 1) for single, _ in _moves(search, counts, by)]
        pairs = [pair for single in singles[:64] for by in (-1, 1) for pair, _ in _moves(search, single, by)]
        best = min([*singles, *pairs], key=search.off, default=counts)
        if search.off(best) >= search.off(counts):
            return _around(search, counts)
        counts = best
    return counts


def _around(search: Search, counts: Counts) -> Counts:
    """Returns the nearest counts that settle with one group a step aside: what no single move or pair reaches."""
    found = [counts]
    for group in range(len(counts)):
        for by in (-1, 1):
            aside = moved(search, counts, group, by)
            if aside is not None:
                held = {group, *(g for branch in search.branches if group in branch for g in branch)}
                allowed = [aside[g : g + 1] if g in held else a for g, a in enumerate(search.allowed)]
                found.append(_settle(replace(search, allowed=allowed), aside))
    return min(found, key=search.off)
