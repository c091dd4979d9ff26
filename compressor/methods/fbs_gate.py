"""The passes over activations that FBS adds to training, as few as possible.

    mean_k, var_k = moments of z over samples and pixels, all K channels, before any masking
    y[n,k]        = scale[n,k] * (z[n,k] - mean_k) / sqrt(var_k + eps) + offset[n,k]

Written as separate layers this is two passes for batch norm, one for the product and one for the sum, and
twice that backwards. Here one pass takes the moments and one writes y = a[n,k]*z + b[n,k]. Backwards one
pass takes

    S1[n,k] = sum_hw dy        S2[n,k] = sum_hw dy * z

which hold every reduction that the gradients of scale, offset, mean and variance need, and one pass writes

    dz = c1[n,k] * dy + c2[k] * z + c3[k]

Whole tensors are never widened: bfloat16 activations stay bfloat16, everything of size (N, K) or (K) is
float32.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["gated_batch_norm", "pixel_mean"]

# bfloat16 sums over pixels are rounded once per strip, of which there are at most so many, then added in
# float32.
_STRIPS = 8


def gated_batch_norm(z: Tensor, scale: Tensor, offset: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises z over the batch, then scales and shifts each sample's channels.

    Args:
        z: (N, K, H, W), any floating type and layout.
        scale: (N, K), float32, or float64 for z of that type.
        offset: (N, K), the same type.
        eps: added to the variance.

    Returns:
        y of z's shape, type and layout; mean (K,) and biased variance (K,) of z in scale's type, without
        gradient.
    """
    out: tuple[Tensor, Tensor, Tensor] = _GatedBatchNorm.apply(z, scale, offset, eps)
    return out


def pixel_mean(x: Tensor) -> Tensor:
    """Mean over the pixels of x (N, C, H, W): (N, C), float32 or wider; the gradient is a mere broadcast."""
    out: Tensor = _PixelMean.apply(x)
    return out


class _PixelMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.like = (x.shape, x.dtype)
        return _pixel_sum(x) / (x.shape[2] * x.shape[3])

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor) -> Tensor:
        shape, dtype = ctx.like
        samples, channels, height, width = shape
        # Really repeated along one row only, as `_spread` does, and for the same reason.
        row = (d_mean / (height * width)).to(dtype).repeat(1, width).view(samples, 1, width, channels)
        d_x: Tensor = row.expand(-1, height, -1, -1).permute(0, 3, 1, 2)
        return d_x


class _GatedBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Tensor, offset: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _moments(z, scale.dtype)
        inverse_std = torch.rsqrt(var + eps)
        factor = (scale * inverse_std).to(z.dtype)
        # From the rounded factor, so that its rounding is not multiplied with the mean.
        shift = offset - factor * mean
        # Not a view of what is computed: an activation in place, as torchvision's are, must be able to change it.
        y = torch.empty_like(z, memory_format=torch.channels_last if _channels_last(z) else torch.preserve_format)
        torch.addcmul(_spread(shift, z), _spread(factor, z), _rows(z), out=_rows(y))
        ctx.save_for_backward(z, scale, mean, inverse_std)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _mean: Tensor, _var: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        z, scale, mean, inverse_std = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last if _channels_last(z) else torch.contiguous_format)
        sum_dy = _pixel_sum(dy)
        d_scale = inverse_std * (_pixel_sum(dy * z) - mean * sum_dy)
        count = z.shape[0] * z.shape[2] * z.shape[3]
        mean_g = (scale * sum_dy).sum(dim=0) / count
        mean_g_normalised = (scale * d_scale).sum(dim=0) / count
        c1 = scale * inverse_std
        c2 = -inverse_std.square() * mean_g_normalised
        c3 = -inverse_std * mean_g - c2 * mean
        dz = torch.addcmul(_spread(c3[None], z), _spread(c2[None], z), _rows(z))
        dz.addcmul_(_spread(c1, z), _rows(dy))
        return _from_rows(dz, z), d_scale, sum_dy, None


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _rows(x: Tensor) -> Tensor:
    """A view in memory order: (N, H, W*C) of a channels-last tensor; another one stays (N, C, H, W)."""
    return x.permute(0, 2, 3, 1).flatten(2) if _channels_last(x) else x


def _from_rows(rows: Tensor, like: Tensor) -> Tensor:
    samples, channels, height, width = like.shape
    if not _channels_last(like):
        return rows
    return rows.view(samples, height, width, channels).permute(0, 3, 1, 2)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Values (N or 1, C) in the shape that meets `_rows(like)`.

    Repeated over the width, so that the innermost loop of a broadcast runs over W*C numbers and not over C:
    with 16 channels that alone is half of a training step.
    """
    values = values.to(like.dtype)
    return values.repeat(1, like.shape[3])[:, None] if _channels_last(like) else values[:, :, None, None]


def _moments(z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel; the running statistics passed in only choose the type."""
    blank = torch.zeros(z.shape[1], dtype=dtype, device=z.device)
    mean, var = torch.batch_norm_update_stats(z, blank, blank.clone(), 0.0)
    return mean, var


def _pixel_sum(x: Tensor) -> Tensor:
    """Sum over the pixels: (N, C, H, W) -> (N, C), float32 or wider."""
    if x.dtype in (torch.float32, torch.float64):
        return x.sum(dim=(2, 3))
    samples, channels, height, width = x.shape
    if x.device.type != "cpu" or not _channels_last(x):
        return x.sum(dim=(2, 3), dtype=torch.float32)
    # Contiguous strips of rows: 0.2 ms against 2.6 ms for the line above, 64 x 64 x 30 x 30 in bfloat16.
    strips = max(count for count in range(1, _STRIPS + 1) if height % count == 0)
    pixels = x.permute(0, 2, 3, 1).reshape(samples * strips, height * width // strips, channels)
    return pixels.sum(dim=1).view(samples, strips, channels).sum(dim=1, dtype=torch.float32)
