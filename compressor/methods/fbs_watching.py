"""Images run through a network while hooks look on."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["watch"]


@torch.no_grad()
def watch(model: nn.Module, batches: Iterable[Tensor], hooks: Iterable[RemovableHandle]) -> int:
    """Returns how many images there were; the hooks are gone afterwards, whatever happens.

    Args:
        model: in evaluation mode.
        batches: (N, C, H, W) each, on the model's device.
        hooks: registered on the model already.

    Raises:
        ValueError: there is no image.
    """
    images = 0
    try:
        for batch in batches:
            model(batch)
            images += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not images:
        raise ValueError("no image to watch the network on; give at least one")
    return images
