"""Functions of torch that are computed another way while a network runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

__all__ = ["Replaced"]


class Replaced(TorchFunctionMode):
    """A context in which some functions are others that take the same arguments.

    Args:
        others: Function, as torch calls it -> what is called instead.
    """

    def __init__(self, others: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self._others = others

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._others.get(func, func)(*args, **(kwargs or {}))
