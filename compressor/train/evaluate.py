"""Accuracy of a network on one split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from compressor.data import Dataset, Loader, SplitName

__all__ = ["Evaluation", "evaluate"]

# Enough to fill the cores; with the limit on pixels VGG-16 at 224×224 (83 images) stays near 2 GiB.
_BATCH_SIZE = 500
_BATCH_PIXELS = 4 * 1024 * 1024


@dataclass(frozen=True)
class Evaluation:
    """How good a network is.

    Attributes:
        top1: Part of the images that is right, 0 to 1.
        loss: Mean cross-entropy.
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
    """Returns accuracy and loss on a split; the model keeps its mode and weights.

    Args:
        model: Gives logits (N, classes).
        dataset: Has the split.
        split: 'train' (not augmented), 'val' or 'test'.
        batch_size: Images per forward pass, over all ranks together; None takes up to 500, fewer if large.
        fabric: The run this belongs to: the images are shared over its ranks.
        num_workers: Processes that decode image files.
    """
    if batch_size is None:
        _, height, width = dataset.preprocessing.size
        batch_size = max(1, min(_BATCH_SIZE, _BATCH_PIXELS // (height * width)))
    device = next(model.parameters()).device
    rank, num_ranks = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    loader = Loader(batch_size, device=device, num_workers=num_workers, rank=rank, num_ranks=num_ranks)
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # right, loss, images
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for images, labels in dataset.batches(split, loader):
            logits = model(images).float()
            right = (logits.argmax(1) == labels).sum()
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums += torch.stack([right, loss, torch.tensor(len(labels), device=device)])
    model.train(was_training)
    if fabric is not None and fabric.world_size > 1:
        sums = torch.as_tensor(fabric.all_reduce(sums, reduce_op="sum"))
    right, loss, num_images = sums.tolist()
    return Evaluation(top1=right / num_images, loss=loss / num_images, num_images=round(num_images))
