"""Time as a price: what a selection needs to know of the machine, and how far it may go for it."""

from collections.abc import Callable
from dataclasses import dataclass

from compressor.costs.widths import Counts

__all__ = ["SLACK", "Clock"]

SLACK = 0.02  # score that may be given up for speed, as a share of what the plan gives up anyway


@dataclass(frozen=True)
class Clock:
    """Predicted latency.

    Attributes:
        latency_ms: kept counts of the groups → milliseconds of one sample.
        source: where the times come from, for the report.
        slack: how much more score than the plain selection a faster one may give up, relative; 0 gives up none.
    """

    latency_ms: Callable[[Counts], float]
    source: str
    slack: float = SLACK
