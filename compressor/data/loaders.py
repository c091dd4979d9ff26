"""The caller's own batches as a data set: any iterable of (inputs, targets) that can be walked more than once."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch

from compressor.data.dataset import Batch, Dataset, Loader, Preprocessing
from compressor.data.task import CLASSIFICATION, Task
from compressor.errors import DataError

__all__ = ["LoaderSplit", "from_loaders"]


class LoaderSplit:
    """A split made of the caller's batches; order, batch size, augmentation and ranks are the caller's.

    Args:
        batches: Such as a `torch.utils.data.DataLoader`; has a length, yields (inputs, targets).

    Raises:
        DataError: It has no length, is empty, or is used up after one walk.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        if isinstance(batches, Iterator):
            raise DataError(
                f"a {type(batches).__name__} can be walked once only; give a list of batches or a DataLoader"
            )
        if not isinstance(batches, Sized) or len(batches) == 0:
            what = "is empty" if isinstance(batches, Sized) else "has no length"
            raise DataError(f"the {type(batches).__name__} of batches {what}; give a list of batches or a DataLoader")
        self._batches = batches
        self._length = len(batches)

    def __len__(self) -> int:
        return self._length

    def num_batches(self, _loader: Loader) -> int:
        """Returns the caller's number of batches."""
        return self._length

    def batches(self, loader: Loader, _preprocessing: Preprocessing) -> Iterator[Batch]:
        """Yields the caller's batches, on the loader's device."""
        for batch in self._batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise DataError(f"a batch is a {type(batch).__name__}; it has to be the pair (inputs, targets)")
            yield _on(batch[0], loader.device), _on(batch[1], loader.device)


def from_loaders(
    train: Iterable[Batch],
    val: Iterable[Batch],
    test: Iterable[Batch] | None = None,
    *,
    example: torch.Tensor,
    task: Task = CLASSIFICATION,
) -> Dataset:
    """Returns the caller's loaders as a data set; its inputs come prepared, so its preprocessing does nothing.

    Args:
        train: What is learned from.
        val: What every decision is made on; no part of `train`.
        test: What is reported once; None reports on `val`.
        example: (N, C, H, W), an input the network takes.
        task: Loss and metric.

    Raises:
        DataError: A loader is not usable.
    """
    channels, height, width = example.shape[1:]
    preprocessing = Preprocessing((0.0,) * channels, (1.0,) * channels, (channels, height, width))
    return Dataset(
        name="the caller's loaders",
        classes=(),
        preprocessing=preprocessing,
        train=LoaderSplit(train),
        val=LoaderSplit(val),
        test=LoaderSplit(val if test is None else test),
        task=task,
    )


# Nested as the caller likes, hence Any.
def _on(values: Any, device: torch.device) -> Any:
    if isinstance(values, torch.Tensor):
        return values.to(device)
    if isinstance(values, dict):
        return {name: _on(value, device) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)(_on(value, device) for value in values)
    return values
