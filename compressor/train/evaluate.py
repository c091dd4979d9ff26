"""How good a network is on one split: the task's metric and loss."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from compressor.data import Dataset, Loader, Metric, SplitName
from compressor.errors import CompressorError
from compressor.train.precision import as_float
from compressor.train.views import views_of_any_layout

__all__ = ["Evaluation", "evaluate"]

# Enough to fill the cores; with the limit on pixels VGG-16 at 224×224 (83 images) stays near 2 GiB.
_BATCH_SIZE = 500
_BATCH_PIXELS = 4 * 1024 * 1024


@dataclass(frozen=True)
class Evaluation:
    """How good a network is.

    Attributes:
        top1: The task's metric, larger is better; of a classification the part of the images that is right, 0 to 1.
        loss: The task's loss, mean over the images.
        num_images: How many were looked at.
    """

    top1: float
    loss: float
    num_images: int


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    split: SplitName,
    *,
    batch_size: int | None = None,
    fabric: Fabric | None = None,
    num_workers: int = 0,
) -> Evaluation:
    """Returns metric and loss on a split; the model keeps its mode and weights.

    Args:
        model: Gives what the task takes, such as logits (N, classes).
        dataset: Has the split and the task.
        split: 'train' (not augmented), 'val' or 'test'.
        batch_size: Images per forward pass, over all ranks together; None takes up to 500, fewer if large.
        fabric: The run this belongs to: the images are shared over its ranks.
        num_workers: Processes that decode image files.

    Raises:
        CompressorError: The metric returns neither one value per sample nor one number.
    """
    if batch_size is None:
        _, height, width = dataset.preprocessing.size
        batch_size = max(1, min(_BATCH_SIZE, _BATCH_PIXELS // (height * width)))
    device = next(model.parameters()).device
    rank, num_ranks = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    loader = Loader(batch_size, device=device, num_workers=num_workers, rank=rank, num_ranks=num_ranks)
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # metric, loss, samples
    was_training = model.training
    model.eval()
    task = dataset.task
    metric = task.metric
    if isinstance(metric, Metric):
        metric.reset()
    with torch.no_grad():
        for inputs, targets in dataset.batches(split, loader):
            with views_of_any_layout():
                outputs = as_float(model(inputs))
            count = _count(targets)
            sums[1] += task.loss(outputs, targets) * count
            sums[2] += count
            if isinstance(metric, Metric):
                metric.update(outputs, targets)
            else:
                sums[0] += _total(metric(outputs, targets), count)
    model.train(was_training)
    if fabric is not None and fabric.world_size > 1:
        sums = torch.as_tensor(fabric.all_reduce(sums, reduce_op="sum"))
    total, loss, num_images = sums.tolist()
    value = float(metric.compute()) if isinstance(metric, Metric) else total / num_images
    return Evaluation(top1=value, loss=loss / num_images, num_images=round(num_images))


def _total(came: Any, count: int) -> torch.Tensor:
    """Sum over a batch of what a metric returned: one value per sample, or their mean."""
    values: torch.Tensor = torch.as_tensor(came).double()
    if values.dim() and values.shape != (count,):
        raise CompressorError(
            f"the metric returns shape {tuple(values.shape)}; one value per sample, ({count},), or one"
        )
    return values.sum() if values.dim() else values * count


# Nested as the caller likes, hence Any.
def _count(targets: Any) -> int:
    """Number of samples in a batch of targets."""
    while not isinstance(targets, torch.Tensor):
        targets = next(iter(targets.values() if isinstance(targets, dict) else targets))
    return len(targets)
