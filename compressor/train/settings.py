"""What a training run is told, and what it tells afterwards."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from compressor.errors import CompressorError

__all__ = ["EpochRecord", "ScheduleName", "TrainRecord", "TrainSettings"]

ScheduleName = Literal["cosine", "triangular", "constant"]


@dataclass(frozen=True)
class TrainSettings:
    """Hyper-parameters of one run of stochastic gradient descent.

    Attributes:
        epochs: Walks over the train split.
        epoch_images: Images of a walk, others each time; 0 is the whole split.
        batch_size: Images per step, over all ranks together.
        peak_lr: Largest learning rate of the run.
        schedule: 'cosine' (a warm-up, then half a cosine to zero), 'triangular' (a line from `lowest_lr` up to
            `peak_lr` at half of the run, and a line down again) or 'constant'.
        lowest_lr: Where 'triangular' starts and ends.
        warmup_fraction: Part of all steps in which 'cosine' rises from zero.
        momentum: Part of the last update that goes on.
        nesterov: The momentum is of Nesterov's kind.
        weight_decay: On convolution kernels and linear weights; never on batch norms and biases.
        label_smoothing: Part of the target spread over all classes, 0 to 1.
        clip_norm: Largest norm of the whole gradient; None leaves it alone.
        precision: '32', 'bf16' (mixed), or 'auto': what a short measurement finds faster.
        keep: Leave the model with the weights of the epoch that is best on the val split, or of the last one.
        settle_epochs: First epochs that are no candidates for 'best': a method's way to its final density.
        seed: Order of images, augmentation, dropout.
        num_workers: Processes that decode image files.
        task: What else decides the run (data, start, method), as text; a run is resumed only with the same.
    """

    epochs: int = 30
    epoch_images: int = 0
    batch_size: int = 256
    peak_lr: float = 0.2
    schedule: ScheduleName = "cosine"
    lowest_lr: float = 0.0
    warmup_fraction: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    precision: Literal["auto", "32", "bf16"] = "auto"
    keep: Literal["best", "last"] = "best"
    settle_epochs: int = 0
    seed: int = 0
    num_workers: int = 0
    task: str = ""

    def __post_init__(self) -> None:
        """Raises CompressorError, with all that is out of its range."""
        parts = ("warmup_fraction", "label_smoothing")
        wrong = [f"{name}={getattr(self, name)} (from 0 to 1)" for name in parts if not 0 <= getattr(self, name) <= 1]
        least = {"epochs": 0, "epoch_images": 0, "batch_size": 1, "peak_lr": 0, "lowest_lr": 0, "weight_decay": 0}
        # Not `<`: a number that is none is wrong too.
        wrong += [
            f"{name}={getattr(self, name)} (finite, {low} or more)"
            for name, low in least.items()
            if not (getattr(self, name) >= low and math.isfinite(getattr(self, name)))
        ]
        if not 0 <= self.momentum < 1:
            wrong.append(f"momentum={self.momentum} (0 or more and below 1)")
        if wrong:
            raise CompressorError(f"training cannot be run with {', '.join(wrong)}")


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: Counts from 1.
        train_loss: Mean over the epoch, as it was minimised.
        val_loss: Cross-entropy.
        val_top1: Part of the val split that is right, 0 to 1.
        lr: Learning rate at the epoch's last step.
        seconds: Training and evaluation together.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_top1: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class TrainRecord:
    """A finished run.

    Attributes:
        settings: What it was told.
        precision: What 'auto' came to, and why.
        epochs: One record each.
        kept_epoch: Whose weights the model has, counts from 1; 0 where nothing was trained.
        val_top1: Of the kept epoch, 0 to 1.
    """

    settings: TrainSettings
    precision: str
    epochs: tuple[EpochRecord, ...]
    kept_epoch: int
    val_top1: float

    def to_json(self) -> dict[str, Any]:  # JSON values
        """Returns plain values under the attributes' names."""
        return asdict(self)
