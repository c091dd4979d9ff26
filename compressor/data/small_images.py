"""Small images as one tensor: batches are cut out, augmented and normalised without leaving torch."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from compressor.data.dataset import Augmentation, Batch, Loader, Preprocessing
from compressor.data.order import batch_indices, epoch_generator, num_batches

__all__ = ["TensorSplit", "augment", "mean_and_std", "normalise"]

# Random numbers of the augmentation come from another stream than those of the order.
_AUGMENTATION_STREAM = 0x5EED


@dataclass(frozen=True)
class TensorSplit:
    """A split that fits in memory.

    Attributes:
        images: uint8, (N, C, H, W).
        labels: int64, (N,).
        augmentation: What a loader with `augment` does.
    """

    images: torch.Tensor
    labels: torch.Tensor
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __len__(self) -> int:
        return len(self.labels)

    def num_batches(self, loader: Loader) -> int:
        """Returns how many batches an epoch has, see `Split`."""
        return num_batches(len(self), loader)

    def batches(self, loader: Loader, preprocessing: Preprocessing) -> Iterator[Batch]:
        """Yields normalised batches, see `Split`."""
        generator = epoch_generator(loader.seed ^ _AUGMENTATION_STREAM, loader.epoch)
        for places in batch_indices(len(self), loader):
            mine = torch.arange(loader.rank, len(places), loader.num_ranks)
            if len(mine) == 0:
                continue
            images = self.images[places[mine]].to(loader.device)
            if loader.augment:
                images = augment(images, self.augmentation, places=mine, of=len(places), generator=generator)
            yield normalise(images, preprocessing), self.labels[places[mine]].to(loader.device)


def augment(
    images: torch.Tensor,
    augmentation: Augmentation,
    *,
    places: torch.Tensor,
    of: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Returns the images, each cropped and mirrored by its own draw: (n, C, H, W) -> (n, C, H, W).

    Draws are made for the whole batch, so an image is treated alike on 1 or N ranks.

    Args:
        images: This rank's share of the batch.
        augmentation: What to do.
        places: (n,), where in the batch the share comes from.
        of: Size of the whole batch.
        generator: Source of randomness, on the CPU.
    """
    pad = augmentation.crop_padding
    shift = torch.randint(0, 2 * pad + 1, (2, of), generator=generator)[:, places]
    mirrored = torch.rand(of, generator=generator)[places] < 0.5
    count, _, height, width = images.shape
    rows = shift[0, :, None] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    if augmentation.flip:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    columns = columns + shift[1, :, None]
    padded = F.pad(images, (pad, pad, pad, pad))
    index = (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    # Indexing moves the channels last in memory, which is what convolutions like best.
    picked = padded.permute(0, 2, 3, 1)[tuple(part.to(images.device) for part in index)]
    return picked.permute(0, 3, 1, 2)


def normalise(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Returns float32 (x / 255 - mean) / std of uint8 images, (N, C, H, W)."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, -1, 1, 1)
    return (images.float() / 255 - mean) / std


def mean_and_std(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation per channel on the 0–1 scale, exact; a constant channel has std 1.

    Args:
        images: uint8, (N, C, H, W), N ≥ 1.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].flatten().int(), minlength=256) / images[:, channel].numel()
        mean = float((share.double() * levels).sum())
        variance = float((share.double() * (levels - mean) ** 2).sum())
        means.append(mean)
        stds.append(variance**0.5 or 1.0)
    return tuple(means), tuple(stds)
