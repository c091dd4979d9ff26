"""The plain functions a program may name: torch's, with sizes that follow the tensors they are given.

Sizes never stand in a program as they were in the file: they are parts of the sizes that come in, so a network still
fits together after channels were removed, and with any batch size.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FUNCTIONS", "Size"]

Size = int | Sequence[Any]
"""A size that stays, or [dimensions, divisor]: the product of these sizes of the input, divided."""


def _reshape(x: Tensor, *, sizes: Sequence[Size]) -> Tensor:
    """Each size of the result is a number, or a part of the product of some of the input's sizes."""
    return x.reshape([_size(x, size) for size in sizes])


def _size(x: Tensor, size: Size) -> int:
    if isinstance(size, int):
        return size
    dims, divisor = size
    product: int = math.prod(x.shape[dim] for dim in dims)
    return product // int(divisor)


def _flatten(x: Tensor, *, start: int) -> Tensor:
    return x.flatten(start)


def _expand(x: Tensor, *, sizes: Sequence[int]) -> Tensor:
    """-1 keeps a size, as in torch."""
    return x.expand(*sizes)


def _slice(x: Tensor, *, dim: int, start: int, stop: int, step: int, of: int) -> Tensor:
    """`start` and `stop` count in a dimension of size `of`; after a cut they lie at the same share of it."""
    size = x.shape[dim]
    index = [slice(None)] * x.dim()
    index[dim] = slice(start * size // of, None if stop == of else stop * size // of, step)
    return x[tuple(index)]


def _split(x: Tensor, *, dim: int, sizes: Sequence[int]) -> list[Tensor]:
    """Parts in proportion to `sizes`, which add up to the size in the file."""
    size, of = x.shape[dim], sum(sizes)
    return list(torch.split(x, [part * size // of for part in sizes], dim))


def _pad(x: Tensor, *, pads: Sequence[int], mode: str, value: float) -> Tensor:
    """`pads` in torch's order, the last dimension first; `value` may be -inf."""
    return F.pad(x, list(pads), mode, value) if mode == "constant" else F.pad(x, list(pads), mode)


def _avg_pool_of_inside(
    x: Tensor, *, pads: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int], ceil_mode: bool
) -> Tensor:
    """Average pooling with unequal pads that do not count: a sum divided by the number of real positions."""
    inside = F.pad(torch.ones_like(x[:1, :1]), list(pads))
    kernel, steps = list(kernel_size), list(stride)
    total = F.avg_pool2d(F.pad(x, list(pads)), kernel, steps, ceil_mode=ceil_mode)
    return total / F.avg_pool2d(inside, kernel, steps, ceil_mode=ceil_mode)


def _resize(x: Tensor, *, scale: Sequence[float], mode: str, align_corners: bool | None) -> Tensor:
    return F.interpolate(x, scale_factor=list(scale), mode=mode, align_corners=align_corners)


def _resize_to(x: Tensor, *, size: Sequence[int], mode: str, align_corners: bool | None) -> Tensor:
    return F.interpolate(x, size=list(size), mode=mode, align_corners=align_corners)


def _depth_to_space(x: Tensor, *, block: int) -> Tensor:
    """ONNX's mode DCR: block² runs of channels."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, channels // block**2, height * block, width * block)


def _space_to_depth(x: Tensor, *, block: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * block**2, height // block, width // block)


def _extreme(torch_function: Callable[..., Tensor], bound: str) -> Callable[..., Tensor]:
    def function(x: Any, y: Any) -> Tensor:  # Any: a tensor or a number
        if not isinstance(x, Tensor):
            x, y = y, x
        return torch_function(x, y) if isinstance(y, Tensor) else torch.clamp(x, **{bound: y})

    return function


def _reduce(name: str) -> Callable[..., Tensor]:
    def function(x: Tensor, *, dims: Sequence[int], keepdim: bool) -> Tensor:
        if name == "prod":
            for dim in sorted(dims, reverse=True):
                x = x.prod(dim, keepdim=keepdim)
            return x
        result: Tensor = getattr(torch, name)(x, list(dims), keepdim=keepdim)
        return result

    return function


def _gather_nd(x: Tensor, index: Tensor) -> Tensor:
    """ONNX's GatherND without batch dimensions: `index` (..., r) picks along the first r dimensions."""
    return x[tuple(index.unbind(-1))]


_TYPES = {"float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}


def _cast(x: Tensor, *, to: str) -> Tensor:
    return x.to(_TYPES[to])


FUNCTIONS: dict[str, Callable[..., Any]] = {  # a tensor, or a list of them
    "reshape": _reshape,
    "flatten": _flatten,
    "expand": _expand,
    "transpose": lambda x, *, order: x.permute(*order),
    "squeeze": lambda x, *, dims: x.squeeze(tuple(dims)),
    "unsqueeze": lambda x, *, dim: x.unsqueeze(dim),
    "concat": lambda *parts, dim: torch.cat(parts, dim),
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "select": lambda x, *, dim, index: x.select(dim, index),
    "index_select": lambda x, index, *, dim: x.index_select(dim, index),
    "gather_nd": _gather_nd,
    "tile": lambda x, *, times: x.repeat(*times),
    "resize": _resize,
    "resize_to": _resize_to,
    "pixel_shuffle": lambda x, *, block: F.pixel_shuffle(x, block),
    "depth_to_space": _depth_to_space,
    "space_to_depth": _space_to_depth,
    "avg_pool_of_inside": _avg_pool_of_inside,
    "cast": _cast,
    "matmul": torch.matmul,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "maximum": _extreme(torch.maximum, "min"),
    "minimum": _extreme(torch.minimum, "max"),
    "clamp": lambda x, *, low, high: torch.clamp(x, low, high),
    "where": torch.where,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "less": operator.lt,
    "less_equal": operator.le,
    "equal": operator.eq,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    **{f"reduce_{name}": _reduce(name) for name in ("mean", "sum", "amax", "amin", "prod")},
    "reduce_norm": lambda x, *, dims, keepdim: torch.linalg.vector_norm(x, 2, list(dims), keepdim=keepdim),
    **{
        name: getattr(torch, name)
        for name in ("abs", "ceil", "cos", "erf", "exp", "floor", "log", "neg", "reciprocal", "round", "rsqrt")
    },
    **{name: getattr(torch, name) for name in ("sign", "sin", "sqrt", "square")},
}
"""Name → function of tensors, and numbers in their places, with the step's settings as keywords."""
