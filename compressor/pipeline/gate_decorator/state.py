"""What is kept beside the output between two stages of a Tick-Tock run, so that a killed run can go on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from compressor.graph.cut import Keep
from compressor.pipeline.gate_decorator.log import Stage
from compressor.pipeline.stages import load_stage, save_stage
from compressor.train import resume_path

__all__ = ["GateState", "load_gate_state", "save_gate_state", "state_path", "tock_path"]

_VERSION = 1


@dataclass(frozen=True, eq=False)
class GateState:
    """A run between two stages; with its task it decides everything that follows.

    Attributes:
        task: data, start, method and settings, as text; a run goes on only with the same.
        precision: what the run computes in, '32' or 'bf16'.
        keep: (units,) True where a unit is still there.
        reached: the budget is met; only the fine-tuning is to come.
        stages: what is done.
        model: state dict of the network with its gates.
    """

    task: str
    precision: Literal["32", "bf16"]
    keep: Keep
    reached: bool
    stages: tuple[Stage, ...]
    model: dict[str, Tensor]

    def done(self, kind: Literal["tick", "tock"]) -> int:
        """Returns how many stages of a kind are behind."""
        return sum(stage.kind == kind for stage in self.stages)


def state_path(output: Path) -> Path:
    """Returns where the state between stages is kept: `slim.pt` -> `slim.pt.gates.resume`."""
    return resume_path(output.with_name(f"{output.name}.gates"))


def tock_path(output: Path, number: int) -> Path:
    """Returns the name that Tock `number` keeps its own state under, epoch by epoch."""
    return output.with_name(f"{output.name}.tock{number}")


def save_gate_state(path: Path, state: GateState) -> None:
    """Writes the state, whole or not at all."""
    values = {**vars(state), "keep": torch.from_numpy(state.keep.copy()), "stages": [asdict(s) for s in state.stages]}
    save_stage(path, values, version=_VERSION)


def load_gate_state(path: Path, task: str) -> GateState:
    """Returns the state of a run with the same task.

    Raises:
        CheckpointError: there is none, it cannot be read, or it belongs to another run.
    """
    values = load_stage(path, task=task, version=_VERSION)
    values["keep"] = np.asarray(values["keep"].numpy(), dtype=np.bool_)
    values["stages"] = tuple(Stage(**stage) for stage in values["stages"])
    return GateState(**values)
