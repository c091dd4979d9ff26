"""What a run of Ticks and Tocks tells on its way: a CSV beside the output, TensorBoard, and the time that is left."""

import csv
import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from compressor.data.files import whole_file
from compressor.errors import CompressorError

__all__ = ["Stage", "check_tensorboard", "clock", "seconds_left", "ticks_left", "write_stages", "write_tensorboard"]


@dataclass(frozen=True)
class Stage:
    """One Tick or Tock that is done; metrics 0 to 1.

    Attributes:
        kind: which of the two.
        number: counts from 1 for each kind.
        epochs: walks over the train split so far, parts of it included.
        macs: multiply-accumulates per image of what is left, exactly as after the cut.
        macs_fraction: of those before the first Tick.
        parameters: of what is left.
        filters: that are left; a channel counts once for every layer that makes it.
        train_loss: mean over the stage, without penalty.
        val_loss: after the stage's pruning.
        val_top1: likewise, on the validation split.
        seconds: training, pruning and evaluation.
    """

    kind: Literal["tick", "tock"]
    number: int
    epochs: float
    macs: float
    macs_fraction: float
    parameters: int
    filters: int
    train_loss: float
    val_loss: float
    val_top1: float
    seconds: float


def write_stages(stages: Sequence[Stage], path: Path) -> None:
    """Writes one row per stage, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(Stage.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(stage) for stage in stages)
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def check_tensorboard() -> None:
    """Raises CompressorError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise CompressorError("tensorboard is not installed; pip install tensorboard, or leave the option out")


def write_tensorboard(stages: Sequence[Stage], folder: Path, *, first_step: int = 1) -> None:
    """Adds an event file of some stages to a folder; the step is the number of stages done, of the first `first_step`.

    Raises:
        CompressorError: TensorBoard is not installed.
    """
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter  # optional

    with SummaryWriter(str(folder)) as writer:
        for step, stage in enumerate(stages, start=first_step):
            for name in ("macs_fraction", "parameters", "filters", "train_loss", "val_loss", "val_top1"):
                writer.add_scalar(name, getattr(stage, name), step)


def ticks_left(cost: float, target: float, *, dense: float, done: int, prune_fraction: float) -> int:
    """Returns how many Ticks are to come, as far as one can tell.

    Args:
        cost: what is left, in the budget's unit.
        target: what should be left.
        dense: what there was before the first Tick.
        done: Ticks behind.
        prune_fraction: part of the filters that a Tick prunes; tells the rate as long as none has been seen.

    >>> ticks_left(90.0, 50.0, dense=100.0, done=5, prune_fraction=0.01)
    20
    """
    if cost <= target:
        return 0
    if done and cost < dense:
        return math.ceil((cost - target) * done / (dense - cost))
    return math.ceil(math.log(target / cost) / math.log1p(-prune_fraction))


def seconds_left(stages: Sequence[Stage], *, ticks: int, tocks: int) -> float | None:
    """Returns the time that Ticks and Tocks still take; None as long as one that is to come has not been seen."""
    total = 0.0
    for kind, count in (("tick", ticks), ("tock", tocks)):
        seen = [stage.seconds for stage in stages if stage.kind == kind]
        if count and not seen:
            return None
        total += count * sum(seen) / max(1, len(seen))
    return total


def clock(seconds: float) -> str:
    """Returns a time for people.

    >>> clock(42), clock(600), clock(3 * 3600 + 1500)
    ('42 s', '10 min', '3 h 25 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
