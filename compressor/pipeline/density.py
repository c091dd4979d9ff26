"""FBS while the density falls: stages of a run, and a method for the loop that sets each epoch's density."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compressor.data import Dataset, Loader
from compressor.methods.base import ParameterGroup
from compressor.methods.fbs import FBS, set_density
from compressor.train import Progress, Teacher, TrainRecord, TrainSettings, resume_path, train
from compressor.train.state import load_state

__all__ = ["DensityPerEpoch", "DensityRun", "lowering_path", "train_stage"]


class DensityPerEpoch:
    """Takes part in training as `fbs` does, and moves the network to the density of the epoch.

    The density changes with an epoch's first training batch, so an epoch is validated at its own density.

    Args:
        fbs: the method that is attached to the network.
        densities: one per epoch of the run.
        steps_per_epoch: batches.
        first_epoch: how many epochs are behind, when a run goes on.
    """

    def __init__(self, fbs: FBS, densities: Sequence[float], *, steps_per_epoch: int, first_epoch: int) -> None:
        self._fbs = fbs
        self._densities = list(densities)
        self._steps_per_epoch = steps_per_epoch
        self._steps = first_epoch * steps_per_epoch

    def watch(self, model: nn.Module) -> RemovableHandle:
        """Changes `model`: from now on its density follows the epochs, until the handle is removed."""
        return model.register_forward_pre_hook(self._before_forward)

    def _before_forward(self, model: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        if model.training:
            epoch = min(self._steps // self._steps_per_epoch, len(self._densities) - 1)
            set_density(model, self._densities[epoch])

    def parameters(self, model: nn.Module) -> list[ParameterGroup] | None:
        """The method's parameter groups."""
        return self._fbs.parameters(model)

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The method's penalty."""
        return self._fbs.penalty(model)

    def after_backward(self, model: nn.Module) -> None:
        """The method's hook."""
        self._fbs.after_backward(model)

    def after_step(self, model: nn.Module) -> None:
        """The method's hook, and one step of the epoch is done."""
        self._fbs.after_step(model)
        self._steps += 1


@dataclass(frozen=True)
class DensityRun:
    """What both stages of a run share.

    Attributes:
        fbs: the method that is attached to the network.
        dataset: to train and validate on.
        output: the checkpoint that the run is for.
        resume: go on with what an earlier run left beside `output`.
        settings: of the loop; epochs, warm-up and what is kept are the stage's.
        progress: where to say how it goes.
        teacher: a network to imitate.
        distillation: what is written about it, for the comparison when a run is resumed.
    """

    fbs: FBS
    dataset: Dataset
    output: Path
    resume: bool
    settings: TrainSettings
    progress: Progress
    teacher: Teacher | None = None
    distillation: dict[str, Any] | None = None  # JSON values


def lowering_path(output: Path) -> Path:
    """The name that the first stage keeps its state under, beside `output`."""
    return output.with_name(f"{output.name}.lowering")


def train_stage(
    run: DensityRun, model: nn.Module, densities: Sequence[float], path: Path, *, warmup: float
) -> TrainRecord:
    """Trains `model` for one epoch per density; keeps the last epoch on the way, the best one at the end.

    Args:
        run: what it is part of.
        model: has the FBS layers.
        densities: one per epoch.
        path: `run.output` for the final stage, `lowering_path` of it for the one before.
        warmup: part of the stage in which the learning rate rises, 0 to 1.
    """
    final = path == run.output
    task = {"data": run.dataset.name, "densities": list(densities), "fbs": run.fbs.settings()}
    if run.distillation is not None:
        task["distillation"] = run.distillation
    settings = replace(
        run.settings,
        epochs=len(densities),
        warmup_fraction=warmup,
        keep="best" if final else "last",
        # Not the other stage's order of images.
        seed=run.settings.seed + (1 if final else 0),
        task=json.dumps(task),
    )
    state = resume_path(path)
    if not run.resume and not final:
        resume_path(run.output).unlink(missing_ok=True)
    # Of a run that was stopped on its way down, the final stage has not begun.
    resume = run.resume and (state.is_file() or not (final and resume_path(lowering_path(run.output)).is_file()))
    done = len(load_state(state, settings).epochs) if resume else 0
    loader = Loader(settings.batch_size, shuffle=True)
    steps = run.dataset.num_batches("train", loader)
    following = DensityPerEpoch(run.fbs, densities, steps_per_epoch=steps, first_epoch=done)
    low, high = min(densities), max(densities)
    epochs = f"{len(densities)} epoch{'' if len(densities) == 1 else 's'}"
    run.progress.line(f"density {high:g}" + (f" down to {low:g}" if low < high else "") + f", {epochs}")
    handle = following.watch(model)
    try:
        return train(
            model,
            run.dataset,
            settings=settings,
            method=following,
            checkpoint_path=path,
            resume=resume,
            teacher=run.teacher,
            progress=run.progress,
        )
    finally:
        handle.remove()
