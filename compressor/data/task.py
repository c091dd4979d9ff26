"""What a network is asked to do: the loss it learns by and the metric it is judged by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F

__all__ = ["CLASSIFICATION", "Loss", "Metric", "Task", "accuracy"]

# Outputs and targets are the user's own: tensors, dictionaries, whatever the network returns and the loader yields.
Loss = Callable[[Any, Any], torch.Tensor]


@runtime_checkable
class Metric(Protocol):
    """A metric over a whole split that is no mean over samples, such as mean IoU; torchmetrics' classes fit it."""

    def reset(self) -> object:
        """Forgets all samples."""

    def update(self, outputs: Any, targets: Any, /) -> object:
        """Takes in one batch."""

    def compute(self) -> Any:
        """Returns the metric of all samples since `reset`, a number; over all ranks where there are several."""


@dataclass(frozen=True)
class Task:
    """Loss and metric of a network.

    Attributes:
        loss: (outputs, targets) -> scalar, the mean over the batch.
        metric: (outputs, targets) -> (N,), one value per sample, or their mean, a scalar; or a `Metric`. Larger is
            better.
        name: Of the metric, for people.
    """

    loss: Loss
    metric: Callable[[Any, Any], Any] | Metric
    name: str = "metric"


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns, for each sample, the part of its labels that have the largest logit: (N,), 0 to 1.

    Args:
        logits: (N, classes, …).
        labels: int64, (N, …).
    """
    right = (logits.argmax(1) == labels).double()
    return right if right.dim() == 1 else right.flatten(1).mean(1)


CLASSIFICATION = Task(F.cross_entropy, accuracy, "accuracy")
