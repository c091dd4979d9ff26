"""What a data set is: classes, preprocessing, and three splits that give batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

from compressor.data.task import CLASSIFICATION, Task

__all__ = ["Augmentation", "Batch", "Dataset", "Loader", "Preprocessing", "Split", "SplitName"]

Batch = tuple[torch.Tensor, torch.Tensor]
SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input: scaled to 0–1, then (x - mean) / std per channel.

    Attributes:
        mean: One value per channel, on the 0–1 scale.
        std: One value per channel, on the 0–1 scale.
        size: (channels, height, width).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int, int]

    def to_json(self) -> dict[str, Any]:  # JSON values
        """Returns plain lists under the attributes' names."""
        return {"mean": list(self.mean), "std": list(self.std), "size": list(self.size)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":  # JSON values
        """Returns the preprocessing that `to_json` wrote."""
        channels, height, width = values["size"]
        return cls(tuple(values["mean"]), tuple(values["std"]), (channels, height, width))


@dataclass(frozen=True)
class Augmentation:
    """What training does to small images; the default does nothing.

    Attributes:
        crop_padding: Zeros added on each side before a random crop of the old size; pixels.
        flip: Mirror half of the images left to right.
    """

    crop_padding: int = 0
    flip: bool = False


@dataclass(frozen=True)
class Loader:
    """How to walk over a split: the same fields give the same batches, on any machine.

    Attributes:
        batch_size: Images per batch over all ranks together.
        shuffle: New order each epoch, and the last incomplete batch is left out.
        augment: Random crops and flips.
        seed: With `epoch`, the only source of randomness.
        epoch: Counts from 0.
        rank: Which share of each batch this process takes; an empty share is left out.
        num_ranks: Number of processes.
        device: Where the batches are made.
        num_workers: Processes that decode image files; small-image splits need none.
    """

    batch_size: int
    shuffle: bool = False
    augment: bool = False
    seed: int = 0
    epoch: int = 0
    rank: int = 0
    num_ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_workers: int = 0


class Split(Protocol):
    """Images with labels, or other inputs with targets, that can be walked over in batches."""

    def __len__(self) -> int: ...

    def num_batches(self, loader: Loader) -> int:
        """Returns how many batches an epoch has, over all ranks together."""

    def batches(self, loader: Loader, preprocessing: Preprocessing) -> Iterator[Batch]:
        """Yields float32 (N, C, H, W), normalised, and int64 (N,)."""


@dataclass(frozen=True)
class Dataset:
    """Three splits of labelled images; `val` is cut out of the training data, `test` is for the report only.

    Attributes:
        name: The text it was loaded from, for people.
        classes: One name per class.
        preprocessing: Taken from the train split, or published constants.
        train: What is learned from.
        val: What every decision is made on.
        test: What is reported, once.
        task: What is learned: loss and metric.
        answers: Inputs (N, C, H, W) -> targets, instead of the splits' labels; None takes the labels.
    """

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    train: Split
    val: Split
    test: Split
    task: Task = CLASSIFICATION
    answers: Callable[[torch.Tensor], Any] | None = None  # Any: what the task's loss takes

    def split(self, name: SplitName) -> Split:
        """Returns one split by name."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def num_batches(self, name: SplitName, loader: Loader) -> int:
        """Returns how many batches an epoch over one split has, over all ranks together."""
        return self.split(name).num_batches(loader)

    def batches(self, name: SplitName, loader: Loader) -> Iterator[Batch]:
        """Yields float32 (N, C, H, W), normalised, and int64 (N,) or what `answers` gives, from one split."""
        batches = self.split(name).batches(loader, self.preprocessing)
        return batches if self.answers is None else ((images, self.answers(images)) for images, _ in batches)
