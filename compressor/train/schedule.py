"""The learning rate over a run, and which parameters decay."""

import math
from typing import Any

from torch import nn

from compressor.train.settings import ScheduleName, TrainSettings

__all__ = ["lr_factor", "parameter_groups"]


def lr_factor(
    step: int,
    *,
    total_steps: int,
    warmup_fraction: float = 0.0,
    schedule: ScheduleName = "cosine",
    lowest: float = 0.0,
) -> float:
    """Returns the part of the peak rate that a step uses.

    1. `cosine`: a line up, then half a cosine down to 0.
    2. `triangular`: a line from `lowest` up to 1 at half of the run, and a line down again.
    3. `constant`: 1.

    Args:
        step: Counts from 0.
        total_steps: Steps of the whole run.
        warmup_fraction: Part of the run in which the cosine's line goes up, 0 to 1.
        schedule: Which of the three.
        lowest: Where the triangle starts, as a part of the peak rate.

    >>> [round(lr_factor(step, total_steps=10, warmup_fraction=0.2), 2) for step in range(10)]
    [0.5, 1.0, 0.96, 0.85, 0.69, 0.5, 0.31, 0.15, 0.04, 0.0]
    >>> [round(lr_factor(step, total_steps=6, schedule="triangular", lowest=0.1), 2) for step in range(6)]
    [0.1, 0.4, 0.7, 1.0, 0.7, 0.4]
    """
    if schedule == "constant":
        return 1.0
    if schedule == "triangular":
        return lowest + (1.0 - lowest) * (1.0 - abs(2.0 * step / total_steps - 1.0))
    warmup_steps = round(total_steps * warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    remaining = (step + 1 - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * remaining))


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Returns torch.optim groups: kernels and matrices decay, biases and batch norms do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decaying = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": decaying, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
