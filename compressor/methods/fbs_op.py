"""The inference form of one FBS layer, as formulas and as the torch op `compress::fbs_conv`.

    u_c = mean_{h,w} |x_c|                      (N, C)
    s   = leaky(u @ A + R, slope)               (N, K)   slope 0 is ReLU, 1 is no activation
    s   = K * s / sum(s)                                 only with `normalize`
    r   = s, or with winner_block b > 1 the mean of s over the b neighbouring channels that share a block
    p   = s on the k largest r of a sample, else 0       ties go to the lower index, NaN counts as lowest
    y   = p * (conv(x, W) + B) [+ D on the winners]

Blocks are not in the paper: kernels then skip whole vectors of weights. The last block is smaller where K is no
multiple of b; where it wins, the next best block gives its first channels to make up k.

Channels that lose are exactly 0; no activation follows. Saliencies are always computed in float32 or wider,
so that who wins does not depend on autocast. Feature Boosting and Suppression: Gao et al., ICLR 2019,
arXiv 1810.05331, section 3.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "OP_NAME",
    "fbs_conv",
    "fbs_conv_formula",
    "fbs_winners",
    "num_winners",
    "ranking",
    "saliency",
    "winner_mask",
]

OP_NAME = "compress::fbs_conv"
# 0.7 * 10 is 7.000000000000001 in floating point; without the slack the ceiling would be 8.
_CEILING_SLACK = 1e-9


def num_winners(density: float, num_channels: int, winner_block: int = 1) -> int:
    """The channels that are computed per sample: ceil(density * channels), rounded up to whole blocks.

    >>> num_winners(0.5, 64), num_winners(0.7, 10), num_winners(0.01, 64)
    (32, 7, 1)
    >>> num_winners(0.5, 64, 16), num_winners(0.5, 72, 16), num_winners(0.5, 20, 16)
    (32, 48, 16)

    Raises:
        ValueError: density outside (0, 1].
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density {density} is not in (0, 1]; 0.5 keeps half of the channels of every layer")
    scaled = density * num_channels - _CEILING_SLACK
    winners = max(1, -int(-scaled // 1))
    return min(num_channels, -(-winners // winner_block) * winner_block)


def saliency(sub_sampled: Tensor, weight: Tensor, bias: Tensor, *, slope: float, normalize: bool) -> Tensor:
    """How much each output channel matters for each sample: (N, K), float32 or wider.

    Args:
        sub_sampled: (N, C), one number per input channel.
        weight: (C, K).
        bias: (K,).
        slope: of negative values; 0 is ReLU, 1 leaves them.
        normalize: scale each sample to mean 1; a sample whose saliencies sum to 0 is left as it is.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(device_type=sub_sampled.device.type, enabled=False):
        scores = torch.addmm(bias.to(wide), sub_sampled.to(wide), weight.to(wide))
        if slope == 0.0:
            scores = F.relu(scores)
        elif slope != 1.0:
            scores = F.leaky_relu(scores, slope)
        if normalize:
            total = scores.sum(dim=1, keepdim=True)
            scores = scores * (scores.shape[1] / torch.where(total == 0, scores.shape[1], total))
    return scores


def ranking(scores: Tensor, winner_block: int) -> Tensor:
    """What channels compete by: (N, K), each channel's score or the mean of its block's, without gradient.

    Args:
        scores: (N, K), saliencies.
        winner_block: neighbouring channels in a block; the last block has the rest.
    """
    scores = scores.detach()
    if winner_block == 1:
        return scores
    blocks = torch.arange(scores.shape[1], device=scores.device) // winner_block
    sizes = torch.bincount(blocks).to(scores.dtype)
    whole = F.pad(scores, (0, -scores.shape[1] % winner_block))
    return whole.reshape(-1, len(sizes), winner_block).sum(dim=2).div(sizes)[:, blocks]


def winner_mask(scores: Tensor, winners: int) -> Tensor:
    """The `winners` largest of each row of scores (N, K) as booleans; ties go to the lower index."""
    if winners >= scores.shape[1]:
        return torch.ones_like(scores, dtype=torch.bool)
    ranked = scores.detach().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = torch.sort(ranked, dim=1, descending=True, stable=True).indices[:, :winners]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


def fbs_conv_formula(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    post_shift: Tensor | None,
    saliency_weight: Tensor,
    saliency_bias: Tensor,
    winners: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    saliency_slope: float,
    normalize: bool,
    winner_block: int = 1,
) -> Tensor:
    """The layer in ordinary, differentiable torch operations; arguments as `fbs_conv`."""
    scores, mask = _select(x, saliency_weight, saliency_bias, winners, saliency_slope, normalize, winner_block)
    scale = torch.where(mask, scores, 0)
    offset = scale * shift if post_shift is None else scale * shift + mask * post_shift
    out = F.conv2d(x, weight.to(x.dtype), None, list(stride), list(padding), list(dilation))
    out = torch.addcmul(offset.to(out.dtype)[:, :, None, None], scale.to(out.dtype)[:, :, None, None], out)
    # Not only a factor 0: an infinite or NaN convolution must not leave a loser different from 0.
    return torch.where(mask[:, :, None, None], out, 0)


@torch.library.custom_op("compress::fbs_winners", mutates_args=())
def fbs_winners(
    x: Tensor,
    saliency_weight: Tensor,
    saliency_bias: Tensor,
    winners: int,
    saliency_slope: float,
    normalize: bool,
    winner_block: int = 1,
) -> tuple[Tensor, Tensor]:
    """Who wins in a `compress::fbs_conv` node: saliencies (N, K) and winners (N, K), booleans; for counting."""
    return _select(x, saliency_weight, saliency_bias, winners, saliency_slope, normalize, winner_block)


def _select(
    x: Tensor, weight: Tensor, bias: Tensor, winners: int, slope: float, normalize: bool, winner_block: int
) -> tuple[Tensor, Tensor]:
    sub_sampled = x.abs().mean(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    scores = saliency(sub_sampled, weight, bias, slope=slope, normalize=normalize)
    return scores, winner_mask(ranking(scores, winner_block), winners)


@torch.library.custom_op(OP_NAME, mutates_args=())
def fbs_conv(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    post_shift: Tensor | None,
    saliency_weight: Tensor,
    saliency_bias: Tensor,
    winners: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    saliency_slope: float,
    normalize: bool,
    winner_block: int = 1,
) -> Tensor:
    """One FBS layer for inference: dense NCHW in, dense NCHW out, losers exactly 0, no activation after.

    Args:
        x: (N, C, H, W).
        weight: (K, C, kh, kw), batch-norm statistics folded in.
        shift: (K,), inside the product.
        post_shift: (K,), added to winners outside the product, or None.
        saliency_weight: (C, K).
        saliency_bias: (K,).
        winners: channels computed per sample, 1 … K.
        stride: two numbers, as are padding and dilation.
        padding: zeros added on each side of height and width.
        dilation: of the kernel's taps.
        saliency_slope: 0 for ReLU on the saliency, 1 for none.
        normalize: scale the saliencies of each sample to mean 1.
        winner_block: neighbouring channels that win or lose together.
    """
    return fbs_conv_formula(
        x, weight, shift, post_shift, saliency_weight, saliency_bias,
        winners, stride, padding, dilation, saliency_slope, normalize, winner_block,
    )  # fmt: skip


@fbs_conv.register_fake
def _fbs_conv_shape(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    post_shift: Tensor | None,
    saliency_weight: Tensor,
    saliency_bias: Tensor,
    winners: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    saliency_slope: float,
    normalize: bool,
    winner_block: int = 1,
) -> Tensor:
    return torch.empty_like(F.conv2d(x, weight.to(x.dtype), None, list(stride), list(padding), list(dilation)))
