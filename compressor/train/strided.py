"""Strided 1×1 convolutions in bfloat16 on the CPU, kept away from a fault of the library that computes them.

The weight gradient of a 1×1 convolution with a stride whose input channels are no multiple of 16 writes beyond its
memory in bfloat16 on several threads (oneDNN as torch 2.15 has it; found on a ResNet-56 cut to 5 channels, whose
training died of "corrupted size vs. prev_size"). Networks cut to any width have such shortcuts. The pixels that the
stride leaves out are never read, so picking the others first and convolving with stride 1 is the same function.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["safe_in_bf16"]


def safe_in_bf16(*, bf16: bool) -> contextlib.AbstractContextManager[object]:
    """Returns a context for forward passes that will be differentiated; where `bf16` is False it changes nothing."""
    return _PickPixelsFirst() if bf16 else contextlib.nullcontext()


class _PickPixelsFirst(TorchFunctionMode):
    """Computes 1×1 convolutions with a stride from the pixels that they read."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,  # named as torch names it: callers may use the name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d`; no different function, only another way for some of its arguments."""
    rows, columns = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
    unpadded = padding == "valid" or padding == 0 or (not isinstance(padding, str | int) and not any(padding))
    if input.device.type == "cpu" and weight.shape[2:] == (1, 1) and (rows, columns) != (1, 1) and unpadded:
        picked = input[..., ::rows, ::columns].contiguous(memory_format=torch.channels_last)
        return torch.conv2d(picked, weight, bias, groups=groups)
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
