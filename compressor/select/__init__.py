"""From scores and a budget to a plan: which units stay."""

from compressor.select.alignment import STEPS, allowed_counts, machine_target
from compressor.select.budget import TOLERANCE, Budget, parse_budget
from compressor.select.choose import select
from compressor.select.limits import Limits, may_cut

__all__ = [
    "STEPS",
    "TOLERANCE",
    "Budget",
    "Limits",
    "allowed_counts",
    "machine_target",
    "may_cut",
    "parse_budget",
    "select",
]
