"""`Tensor.view` of images that lie channels last, which torch refuses where it would have to copy them.

Networks are written for images that lie channel by channel, and many flatten them by `x.view(len(x), -1)`. The pixels
that `reshape` gives are the same ones, in the same order, so it takes the place of such a view.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor

from compressor.train.replaced import Replaced

__all__ = ["views_of_any_layout"]


def views_of_any_layout() -> contextlib.AbstractContextManager[object]:
    """Returns a context for forward passes in which a view copies where it could not be one."""
    return Replaced({Tensor.view: _view, Tensor.view_as: _view_as})


def _view(x: Tensor, *shape: Any, **named: Any) -> Tensor:  # sizes one by one or together, or a type
    try:
        return x.view(*shape, **named)
    except RuntimeError:
        if any(isinstance(value, torch.dtype) for value in (*shape, *named.values())):
            raise
        return x.reshape(*shape, **named)  # says what is wrong with a shape as well


def _view_as(x: Tensor, other: Tensor) -> Tensor:
    return _view(x, other.shape)
