"""What is kept beside the output between the searches of a run, so that a killed run can go on."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from compressor.pipeline.stages import first_process, load_stage, save_stage
from compressor.train import resume_path

__all__ = ["SearchRecord", "SearchState", "load_search_state", "retraining_path", "save_search_state", "state_path"]

_VERSION = 2
_RECORDS = ("searches", "fallbacks")


@dataclass(frozen=True)
class SearchRecord:
    """One search and what became of it; rates and accuracies 0 to 1.

    Attributes:
        granularity: `channel`, `kernel` or `strided`.
        names: Channel groups or layers.
        units: How many there were.
        asked: How many were to go.
        pruned: How many went; fewer where the accuracy fell too far with more.
        evaluations: Masks that were evaluated.
        seconds: Of the search.
        error_before: Misclassification rate on the held-out images, nothing pruned, in float32.
        error_median: Of the masks of the first step with the final number of pruned units, as the search evaluates.
        error: Of the mask that was taken, in float32.
        val_cut: Validation metric with it, before retraining.
        val_top1: After retraining.
        kept: False where the units were given back.
    """

    granularity: str
    names: tuple[str, ...]
    units: int
    asked: int
    pruned: int
    evaluations: int
    seconds: float
    error_before: float
    error_median: float
    error: float
    val_cut: float
    val_top1: float = 0.0
    kept: bool = True


@dataclass(frozen=True, eq=False)
class SearchState:
    """A run between two steps; with its task it decides everything that follows.

    Attributes:
        task: Data, start, method and settings, as text; a run goes on only with the same.
        precision: What retraining computes in, '32' or 'bf16'.
        plan: Channels and taps that are gone so far: JSON values.
        model: State dict of the network.
        before: State dict before the search whose retraining is under way; None between two searches.
        searches: What was done; the last one lacks its retraining where `before` is there.
        masks: (levels, units), masks of the last search that prune less, ascending: what it can step back to.
        fallbacks: Their records.
    """

    task: str
    precision: Literal["32", "bf16"]
    plan: dict[str, Any]  # JSON values
    model: dict[str, Tensor]
    before: dict[str, Tensor] | None
    searches: tuple[SearchRecord, ...]
    masks: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int8))
    fallbacks: tuple[SearchRecord, ...] = ()


def state_path(output: Path) -> Path:
    """Returns where the state between searches is kept: `slim.pt` -> `slim.pt.search.resume`."""
    return resume_path(output.with_name(f"{output.name}.search"))


def retraining_path(output: Path, number: int, pruned: int) -> Path:
    """Returns the name that the retraining after a search keeps its own state under; `pruned` units are gone then."""
    return output.with_name(f"{output.name}.search{number}_{pruned}")


def save_search_state(path: Path, state: SearchState) -> None:
    """Writes the state, whole or not at all; of several processes the first does."""
    if first_process():
        records = {name: [asdict(record) for record in getattr(state, name)] for name in _RECORDS}
        save_stage(path, {**vars(state), **records}, version=_VERSION)


def load_search_state(path: Path, task: str) -> SearchState:
    """Returns the state of a run with the same task.

    Raises:
        CheckpointError: There is none, it cannot be read, or it belongs to another run.
    """
    values = load_stage(path, task=task, version=_VERSION)
    for name in _RECORDS:
        values[name] = tuple(SearchRecord(**{**one, "names": tuple(one["names"])}) for one in values[name])
    return SearchState(**values)
