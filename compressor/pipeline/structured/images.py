"""Images on which a search evaluates its masks: held out of the training data, never of validation or test."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compressor.data import Batch, Dataset, Loader
from compressor.data.order import validation_split
from compressor.data.photos import PhotoSplit
from compressor.data.small_images import TensorSplit

__all__ = ["hold_out"]

# A search may not take more of the images to learn from.
_MOST = 0.2
# Masks are evaluated on at most so many images at a time.
_BATCH = 256
_STREAM = 0x5EA2C4  # not the stream of the validation split


def hold_out(dataset: Dataset, count: int, *, seed: int) -> tuple[Dataset, list[Batch]]:
    """Returns the data set without some of its training images, and those, not augmented, in batches of one size.

    Each class gives its share. Loaders of the caller's own cannot be divided: there the images are the first of one
    walk, and stay among those that are trained on.

    Args:
        dataset: Its validation and test splits are not touched.
        count: Images wanted; at most a fifth of the training images are taken.
        seed: Decides which.
    """
    train = dataset.train
    if isinstance(train, TensorSplit | PhotoSplit):
        wanted = min(count, max(1, int(_MOST * len(train))))
        rest, held = validation_split(train.labels, fraction=wanted / len(train), seed=seed ^ _STREAM)
        held_set = replace(dataset, train=_part(train, held))
        batches = list(held_set.batches("train", Loader(_BATCH)))
        return replace(dataset, train=_part(train, rest)), _even(batches)
    first: list[Batch] = []
    # A DataLoader that shuffles draws from torch's own state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inputs, targets in dataset.batches("train", Loader(_BATCH)):
            first.append((inputs, targets))
            if sum(len(batch[0]) for batch in first) >= count:
                break
    return dataset, _even(first)


def _part(split: TensorSplit | PhotoSplit, places: Tensor) -> TensorSplit | PhotoSplit:
    if isinstance(split, PhotoSplit):
        return PhotoSplit(tuple(split.paths[place] for place in places.tolist()), split.labels[places])
    return replace(split, images=split.images[places], labels=split.labels[places])


def _even(batches: Sequence[Batch]) -> list[Batch]:
    """The same images in batches of one size; up to one image fewer for each batch."""
    inputs = torch.cat([images for images, _ in batches])
    targets = pytree.tree_map(lambda *parts: torch.cat(parts), *[labels for _, labels in batches])
    chunks = -(-len(inputs) // _BATCH)
    size = len(inputs) // chunks
    spans = [slice(start, start + size) for start in range(0, size * chunks, size)]
    return [(inputs[span], pytree.tree_map(lambda labels, span=span: labels[span], targets)) for span in spans]
