"""Strided 1×1 convolutions in bfloat16 on the CPU, kept away from a fault of the library that computes them.

The weight gradient of a 1×1 convolution with a stride whose input channels are no multiple of 16 writes beyond its
memory in bfloat16 on several threads (oneDNN as torch 2.15 has it; found on a ResNet-56 cut to 5 channels, whose
training died of "corrupted size vs. prev_size"). Networks cut to any width have such shortcuts. The pixels that the
stride leaves out are never read, so picking the others first and convolving with stride 1 is the same function.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.train.replaced import Replaced

__all__ = ["safe_in_bf16"]


def safe_in_bf16(*, bf16: bool) -> contextlib.AbstractContextManager[object]:
    """Returns a context for forward passes that will be differentiated; where `bf16` is False it changes nothing."""
    return Replaced({torch.conv2d: _conv2d}) if bf16 else contextlib.nullcontext()


def _conv2d(
    input: Tensor,  # named as torch names it: callers may use the name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d`; those of 1×1 with a stride from the pixels that they read, no different function."""
    rows, columns = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
    unpadded = padding == "valid" or padding == 0 or (not isinstance(padding, str | int) and not any(padding))
    if input.device.type == "cpu" and weight.shape[2:] == (1, 1) and (rows, columns) != (1, 1) and unpadded:
        picked = input[..., ::rows, ::columns].contiguous(memory_format=torch.channels_last)
        return torch.conv2d(picked, weight, bias, groups=groups)
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
