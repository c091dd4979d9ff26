"""`Tensor.view` of images that lie channels last, which torch refuses where it would have to copy them.

Networks are written for images that lie channel by channel, and many flatten them by `x.view(len(x), -1)`. The pixels
that `reshape` gives are the same ones, in the same order, so it takes the place of such a view.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["ViewsOfAnyLayout"]

_COPYING: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.Tensor.view: torch.Tensor.reshape,
    torch.Tensor.view_as: torch.Tensor.reshape_as,
}


class ViewsOfAnyLayout(TorchFunctionMode):
    """A context for forward passes in which a view copies where it could not be one."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        copying = _COPYING.get(func)
        if copying is None or any(isinstance(value, torch.dtype) for value in (*args, *(kwargs or {}).values())):
            return func(*args, **(kwargs or {}))
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError:  # reshape says what is wrong with a shape as well
            return copying(*args, **(kwargs or {}))
