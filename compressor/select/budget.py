"""Budgets: what a pruned network may cost, as people write it."""

import re
from dataclasses import dataclass

__all__ = ["TOLERANCE", "Budget", "parse_budget"]

TOLERANCE = 0.02  # a budget counts as met within 2 %

_KINDS = ("macs", "params", "density", "latency")
_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "ms": 1.0}
_MILLISECONDS = re.compile(r"^latency_ms=([\d.]+)$", re.IGNORECASE)
_FORM = re.compile(r"(?P<kind>\w+)=(?P<number>\d+(\.\d*)?|\.\d+)(?P<suffix>ms|[kmgx]|)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """What to reach.

    Attributes:
        kind: `macs`, `params`, `density` (share of the units that may be cut which stay) or `latency` (predicted).
        value: a fraction of the dense network where `relative`, otherwise a number of macs, parameters or milliseconds.
        relative: which of the two.
    """

    kind: str
    value: float
    relative: bool = True


def parse_budget(text: str) -> Budget:
    """Returns the budget written in a text.

    >>> parse_budget("macs=0.5x")
    Budget(kind='macs', value=0.5, relative=True)
    >>> parse_budget("macs=60M")
    Budget(kind='macs', value=60000000.0, relative=False)
    >>> parse_budget("latency=3ms") == parse_budget("latency_ms=3")
    True

    Raises:
        ValueError: the text is no budget.
    """
    allowed = "write macs=0.5x, params=0.4x, density=0.5, latency=0.5x, macs=60M, params=1.2M or latency=3ms"
    match = _FORM.fullmatch(_MILLISECONDS.sub(r"latency=\1ms", text.strip()))
    if match is None or match["kind"].lower() not in _KINDS:
        raise ValueError(f"unknown budget {text!r}; {allowed}")
    kind, value, suffix = match["kind"].lower(), float(match["number"]), match["suffix"].lower()
    if suffix not in ("ms", "x") if kind == "latency" else suffix == "ms":
        raise ValueError(f"budget {text!r}: latency is in milliseconds, or a fraction, and nothing else is; {allowed}")
    relative = suffix == "x" or kind == "density"
    if kind == "density" and suffix not in ("", "x"):
        raise ValueError(f"budget {text!r}: a density is a fraction; write density=0.5")
    if value <= 0 or (relative and value > 1):
        raise ValueError(f"budget {text!r}: a fraction lies above 0 and up to 1; {allowed}")
    if not relative and suffix == "" and value <= 1:
        raise ValueError(f"budget {text!r}: {match['number']} is a count here; for a fraction write {kind}={value:g}x")
    return Budget(kind, value if relative else value * _SUFFIX[suffix], relative)
