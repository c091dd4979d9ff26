"""What `compress export` does to an FBS network with data at hand: channels that never win go, the rest are ordered.

The images are training images; what it does to the accuracy is measured on validation images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data import Dataset, Loader, SplitName
from compressor.methods.fbs import layers
from compressor.methods.fbs_wins import Wins, channel_graph, count_wins, order_by_wins
from compressor.pipeline.prune import matching_data
from compressor.pipeline.source import Source
from compressor.shrink import arrange

__all__ = ["Layout", "as_laid_out", "compare_accuracy", "lay_out"]

# A channel that wins once in a thousand images is seen; ten seconds of M-CifarNet on one core.
_COUNTED_IMAGES = 2000
_SCORED_IMAGES = 1000
_BATCH = 50
# Of the largest output: sums in another order differ by 1e-6.
_SAME = 1e-4


@dataclass(frozen=True)
class Layout:
    """An FBS network in the order of its wins.

    Attributes:
        source: The network.
        record: For the file's metadata: images counted, and each group's units in their new order; None where nothing
            changed.
        notes: One line each, for people.
    """

    source: Source
    record: dict[str, Any] | None  # JSON values
    notes: tuple[str, ...]


def lay_out(source: Source, data: str, *, keep_never: bool = False) -> Layout:
    """Removes channels that never win, puts those that always do first, and says what that changed.

    Args:
        source: A trained network with FBS attached.
        data: What `compressor.data.load` takes.
        keep_never: Only the order changes.

    Raises:
        DataError: The data is not usable, or not what the network was made for.
        GraphError: The network cannot be traced.
    """
    assert source.saved is not None
    if source.saved.fixed_point is not None:
        return Layout(source, None, ("fixed-point weights: channels that never win are left in",))
    dataset = matching_data(data, source.saved, 0)
    images = [batch for batch, _ in _batches(dataset, "train", _COUNTED_IMAGES)]
    wins = count_wins(source.model, images)
    graph = channel_graph(source.model, source.example())
    order = order_by_wins(source.model, graph, wins, keep_never=keep_never)
    counted = sum(len(batch) for batch in images)
    if not order:
        return Layout(source, None, (f"{_found(wins, counted)}; there is nothing to remove or reorder",))
    arranged = replace(source, model=arrange(source.model, graph, order).eval())
    difference = _difference(source.model, arranged.model, images[0])
    if difference > _SAME:
        note = f"{_found(wins, counted)}; left in, since without them the output changes by {difference:.1e}"
        return Layout(source, None, (note,))
    removed = _channels(source.model) - _channels(arranged.model)
    before, after, scored = compare_accuracy(source.model, arranged.model, dataset)
    note = (
        f"{_found(wins, counted)}; {removed} were removed, the rest are ordered by their wins: "
        f"accuracy {before:.2%} -> {after:.2%} on {scored} validation images ({100 * (after - before):+.2f} points)"
    )
    return Layout(arranged, {"images": counted, "order": {name: list(units) for name, units in order.items()}}, (note,))


def as_laid_out(model: nn.Module, record: dict[str, Any], example: Tensor) -> nn.Module:
    """Returns the network that `lay_out` made, from the one it was made of and its record.

    Raises:
        PlanError: The record is of another network.
    """
    return arrange(model, channel_graph(model, example), record["order"]).eval()


def _found(wins: dict[str, Wins], images: int) -> str:
    channels = sum(len(win.counts) for win in wins.values())
    never, always = sum(win.never for win in wins.values()), sum(win.always for win in wins.values())
    return f"of {channels} channels {never} never won and {always} always did on {images} training images"


def _channels(model: nn.Module) -> int:
    return sum(layer.conv.out_channels for layer in layers(model).values())


def _batches(dataset: Dataset, split: SplitName, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Up to `most` images of 'train', drawn at random, or of 'val'."""
    size = min(_BATCH, len(dataset.split(split)))
    seen = 0
    for images, labels in dataset.batches(split, Loader(size, shuffle=split == "train")):
        if seen >= most:
            return
        seen += len(images)
        yield images, labels


@torch.no_grad()
def _difference(first: nn.Module, second: nn.Module, images: Tensor) -> float:
    """Largest difference of the outputs, as a fraction of the largest output."""
    expected = first(images)
    return float((second(images) - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@torch.no_grad()
def compare_accuracy(first: nn.Module, second: nn.Module, dataset: Dataset) -> tuple[float, float, int]:
    """Returns the top-1 of both on the same validation images, and how many these were."""
    right, seen = [0, 0], 0
    for images, labels in _batches(dataset, "val", _SCORED_IMAGES):
        for number, model in enumerate((first, second)):
            right[number] += int((model(images).argmax(1) == labels).sum())
        seen += len(images)
    return right[0] / seen, right[1] / seen, seen
