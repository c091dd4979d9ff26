"""Blocks of channels that fire together, for winners that are chosen in blocks.

A block wins or loses as one (`winner_block` of FBS), so a channel that matters in an image takes its neighbours along.
That costs least when the neighbours matter in the same images. Before training, the channels of the dense network are
therefore put in such an order that each block holds channels that are active in the same images, or in none.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from compressor.graph import ChannelGraph, ChannelGroup
from compressor.graph.pairs import ConvBNPair
from compressor.methods.fbs_watching import watch

__all__ = ["activities", "block_order", "order_for_blocks"]

_Floats = npt.NDArray[np.float64]


def activities(model: nn.Module, pairs: Iterable[ConvBNPair], batches: Iterable[Tensor]) -> dict[str, _Floats]:
    """Returns the mean of relu(batch norm) of each channel in each image, (images, K), by name of the convolution.

    Args:
        model: a dense network in evaluation mode.
        pairs: its convolutions that are to become FBS layers.
        batches: (N, C, H, W) each, on the model's device.

    Raises:
        ValueError: there is no image.
    """
    found: dict[str, list[_Floats]] = {pair.conv: [] for pair in pairs}

    def note(name: str, output: Tensor) -> None:
        found[name].append(output.relu().mean(dim=(2, 3)).double().cpu().numpy())

    hooks = [
        model.get_submodule(pair.bn).register_forward_hook(lambda _, __, output, name=pair.conv: note(name, output))
        for pair in pairs
    ]
    watch(model, batches, hooks)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def block_order(activity: _Floats, block: int) -> tuple[int, ...]:
    """Returns the channels in an order in which each run of `block` holds channels that are active together.

    Two channels are alike by the cosine between their activities over the images: not by the correlation, which takes
    a channel that is always strong and one that is always weak for equals. Greedy: a block starts with the channel most
    like all that are left, and takes, one by one, the one most like those it has. What is left for the last block is
    what fits nowhere else.

    Args:
        activity: (images, K), at least 0.
        block: channels of a block; the last one has the rest.

    >>> block_order(np.array([[0.0, 5, 1, 4], [1, 2, 2, 2], [2, 0, 3, 0]]), 2)
    (2, 0, 1, 3)
    """
    unit = _unit(activity)
    alike = unit.T @ unit
    left = np.ones(alike.shape[0], dtype=bool)
    order: list[int] = []
    together = np.zeros(len(left))
    for place in range(len(left)):
        if place % block == 0:
            together = np.zeros(len(left))
            score = alike[:, left].sum(axis=1)
        else:
            score = together
        chosen = int(np.where(left, score, -np.inf).argmax())
        left[chosen] = False
        together = together + alike[chosen]
        order.append(chosen)
    return tuple(order)


def order_for_blocks(graph: ChannelGraph, activity: dict[str, _Floats], block: int) -> dict[str, tuple[int, ...]]:
    """Returns, for `shrink.arrange`, the units of each group in the order of `block_order`.

    A group stays as it is where it is frozen, no wider than a block, or made by a layer that gets no FBS or that makes
    other channels too. Of several makers (a residual sum) the cosines are averaged.

    Args:
        graph: of the dense network.
        activity: its `activities`.
        block: channels of a block.
    """
    found = {}
    for group in graph.groups:
        if group.frozen is not None or group.size <= block or not group.makers or not _made_alone(group, graph):
            continue
        if all(maker in activity for maker in group.makers):
            rows = [_unit(activity[maker]) for maker in group.makers]
            found[group.name] = block_order(np.concatenate(rows), block)
    return found


def _unit(activity: _Floats) -> _Floats:
    """(images, K), each channel of length 1; one that is never active stays 0, and is like none."""
    length = np.sqrt((activity**2).sum(axis=0))
    unit: _Floats = activity / np.where(length > 0, length, 1.0)
    return unit


def _made_alone(group: ChannelGroup, graph: ChannelGraph) -> bool:
    """Whether every maker's outputs are the group's units, in their order."""
    units = group.start + np.arange(group.size)
    return all(np.array_equal(call.outputs, units) for call in graph.layers if call.name in group.makers)
