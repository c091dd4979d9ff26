"""What the roads share that prune in stages: how a stage speaks, its state on disk, the plan of what is left."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data.files import whole_file
from compressor.errors import CheckpointError
from compressor.graph import ChannelGraph
from compressor.graph.cut import Keep
from compressor.plan import PruningPlan
from compressor.train import Progress
from compressor.train.state import read_state

__all__ = ["SEED_STRIDE", "StageProgress", "first_process", "load_stage", "plan_of", "save_stage", "weights_of"]

# Orders of images differ from stage to stage, and from those of the fine-tuning.
SEED_STRIDE = 7_919


class StageProgress(Progress):
    """Says of a stage's own lines only the epochs', and which stage it is; nothing where that is None."""

    def __init__(self, outer: Progress, stage: str | None) -> None:
        self._outer, self._stage = outer, stage

    def start(self, text: str, *, total: int, done: int = 0) -> None:
        """Begins the stage."""
        self._outer.start(text if self._stage is None else f"{self._stage}{text}", total=total, done=done)

    def advance(self) -> None:
        """One step more is done."""
        self._outer.advance()

    def line(self, text: str) -> None:
        """Says an epoch's line."""
        if self._stage is not None and text.startswith("epoch "):
            self._outer.line(f"{self._stage}{text}")

    def stop(self) -> None:
        """Ends the stage."""
        self._outer.stop()


def first_process() -> bool:
    """Says whether this is the process that writes files, of those of one run."""
    return int(os.environ.get("RANK", "0")) == 0


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of the state dict, on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def plan_of(graph: ChannelGraph, keep: Keep) -> PruningPlan:
    """Returns the plan that leaves the units of `keep`, (units,) booleans."""
    kept = {g.name: np.flatnonzero(keep[g.start : g.start + g.size]) for g in graph.groups}
    cut = [g for g in graph.groups if len(kept[g.name]) < g.size]
    return PruningPlan({g.name: tuple(kept[g.name].tolist()) for g in cut}, {g.name: g.size for g in cut})


def save_stage(path: Path, values: dict[str, Any], *, version: int) -> None:
    """Writes plain values and tensors, whole or not at all."""
    with whole_file(path) as file:
        torch.save({"version": version, **values}, file)


def load_stage(path: Path, *, task: str, version: int) -> dict[str, Any]:
    """Returns what `save_stage` wrote, of a run with the same `task`.

    Raises:
        CheckpointError: there is none, it cannot be read, or it belongs to another run.
    """
    values = read_state(path, version=version)
    if values["task"] != task:
        raise CheckpointError(f"{path} belongs to a run with other settings: it was {values['task']}, is {task}")
    return values
