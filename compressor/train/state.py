"""What is kept beside a checkpoint so that a killed run can go on."""

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from compressor.data.files import whole_file
from compressor.errors import CheckpointError
from compressor.train.settings import EpochRecord, TrainSettings

__all__ = ["RunState", "load_state", "read_state", "resume_path", "save_state"]

_VERSION = 1


@dataclass(frozen=True)
class RunState:
    """A run between two epochs; with the settings it decides everything that follows.

    Random state is not part of it: each epoch starts its own from (seed, epoch).

    Attributes:
        precision: What the run computes in.
        precision_reason: Why.
        model: State dict of the network.
        optimizer: State dict of the optimiser.
        epochs: One record for each finished epoch.
        best_model: State dict of the epoch that is best so far.
        best_epoch: Which that is, counts from 1; 0 before the first.
    """

    precision: Literal["32", "bf16"]
    precision_reason: str
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    epochs: tuple[EpochRecord, ...]
    best_model: dict[str, torch.Tensor]
    best_epoch: int


def resume_path(checkpoint_path: Path) -> Path:
    """Returns where the state of a run is kept: `model.pt` -> `model.pt.resume`."""
    return checkpoint_path.with_name(checkpoint_path.name + ".resume")


def save_state(path: Path, state: RunState, settings: TrainSettings) -> None:
    """Writes the state, whole or not at all."""
    values = {**vars(state), "epochs": [asdict(record) for record in state.epochs]}
    with whole_file(path) as file:
        torch.save({"version": _VERSION, "settings": asdict(settings), **values}, file)


def load_state(path: Path, settings: TrainSettings) -> RunState:
    """Returns the state of a run that was begun with the same settings.

    Raises:
        CheckpointError: There is none, it cannot be read, or other settings were used; lists the differences.
    """
    values = read_state(path, version=_VERSION)
    # A setting that the file does not know yet had its default.
    before, now = asdict(TrainSettings(**values.pop("settings"))), asdict(settings)
    changed = [f"{name} was {before[name]}, is {now[name]}" for name in now if before[name] != now[name]]
    if changed:
        raise CheckpointError(f"{path} belongs to a run with other settings: {'; '.join(changed)}")
    values["epochs"] = tuple(EpochRecord(**record) for record in values["epochs"])
    return RunState(**values)


def read_state(path: Path, *, version: int) -> dict[str, Any]:
    """Returns the plain values and tensors in a state's file, without its version.

    Raises:
        CheckpointError: There is none, it cannot be read, or it is of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"nothing to resume: no file {path}; start the run without resuming")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not the complete state of a run; start without resuming") from error
    if not isinstance(values, dict) or values.pop("version", None) != version:
        raise CheckpointError(f"{path} is of another version; start the run without resuming")
    return values
