"""From scores and a budget to a plan: which units stay."""

from compressor.select.alignment import STEPS, allowed_counts, machine_target
from compressor.select.budget import TOLERANCE, Budget, parse_budget
from compressor.select.choose import Choices, find_choices, select
from compressor.select.clock import SLACK, Clock
from compressor.select.limits import Limits, may_cut
from compressor.select.ticks import Pruned, check_reachable, prune_least

__all__ = [
    "SLACK",
    "STEPS",
    "TOLERANCE",
    "Budget",
    "Choices",
    "Clock",
    "Limits",
    "Pruned",
    "allowed_counts",
    "check_reachable",
    "find_choices",
    "machine_target",
    "may_cut",
    "parse_budget",
    "prune_least",
    "select",
]
