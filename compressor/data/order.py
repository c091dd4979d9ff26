"""Which image comes when: batches, shares of ranks, and the fixed validation split."""

from collections.abc import Iterator

import torch

from compressor.data.dataset import Loader

__all__ = ["batch_indices", "epoch_generator", "num_batches", "validation_split"]

# Keeps the streams of different epochs and seeds apart; any large odd number does.
_EPOCH_STRIDE = 1_000_003


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Returns the source of randomness of one epoch; the caller's own random state is untouched."""
    return torch.Generator().manual_seed(seed * _EPOCH_STRIDE + epoch)


def num_batches(num_images: int, loader: Loader) -> int:
    """Returns the number of batches in an epoch; an epoch is never empty unless the split is."""
    whole, rest = divmod(num_images, loader.batch_size)
    return whole if loader.shuffle and whole else whole + bool(rest)


def batch_indices(num_images: int, loader: Loader) -> Iterator[torch.Tensor]:
    """Yields the places of each global batch, int64; every rank gets the same and takes its own share."""
    order = torch.arange(num_images)
    if loader.shuffle:
        order = torch.randperm(num_images, generator=epoch_generator(loader.seed, loader.epoch))
    for batch in range(num_batches(num_images, loader)):
        yield order[batch * loader.batch_size : (batch + 1) * loader.batch_size]


def validation_split(labels: torch.Tensor, *, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (train places, val places), both ascending; each class gives its share of validation.

    A class with at least two images keeps one on each side.

    Args:
        labels: (N,), int64.
        fraction: Part of the images held out, in (0, 1).
        seed: The split depends on this and the labels alone.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out: list[torch.Tensor] = []
    for label in sorted(set(labels.tolist())):
        places = (labels == label).nonzero().flatten()
        count = min(max(1, round(len(places) * fraction)), len(places) - 1)
        held_out.append(places[torch.randperm(len(places), generator=generator)[:count]])
    is_val = torch.zeros(len(labels), dtype=torch.bool)
    is_val[torch.cat(held_out)] = True
    return (~is_val).nonzero().flatten(), is_val.nonzero().flatten()
