"""How FBS layers may differ, and what their parameters are at the start."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["GAMMA_FLOOR", "FBSOptions", "Start", "start"]

# |gamma| below this counts as this much. Such a channel is nearly constant: its shift stays exact, it gains
# at most this multiple of its normalised convolution, and beta / |gamma| stays finite.
GAMMA_FLOOR = 1e-3
# Spread of the predictor's weights at a warm start, as a part of |gamma|, so that all channels vary alike.
# At 0.01 a CIFAR-10 network of 90.44 % had 90.19 % at density 1 before any training.
_ABSORB_SPREAD = 0.01
# The released code: weights truncated normal with this spread, saliency bias 1, shift 0.1.
_PAPER_SPREAD, _PAPER_BIAS, _PAPER_SHIFT = 0.05, 1.0, 0.1


@dataclass(frozen=True)
class FBSOptions:
    """What an FBS layer does, besides its sizes.

    Attributes:
        form: where the shift stands: `paper` p*(nrm + beta), `released` p*nrm + a*beta.
        init: `absorb` continues a trained network, exactly but for the spread of the predictor's weights (and
            unless `normalize`); `paper` starts saliencies at 1, shifts at 0.1, and forgets batch norm's
            affine part.
        subsample: `l1` is mean |x|, `mean` the average pool of the released code; the same after a ReLU.
        normalize: scale the saliencies of each sample to mean 1 (not in the paper; against unstable
            training).
        l1_of: `all` saliencies (paper) or only those of `winners` (released code).
        winner_block: neighbouring channels that win or lose together (paper: 1).
    """

    form: Literal["paper", "released"] = "paper"
    init: Literal["absorb", "paper"] = "absorb"
    subsample: Literal["l1", "mean"] = "l1"
    normalize: bool = False
    l1_of: Literal["all", "winners"] = "all"
    winner_block: int = 1

    def __post_init__(self) -> None:
        if self.winner_block < 1:
            raise ValueError(
                f"winner_block={self.winner_block} is below 1; 16 chooses winners in blocks of 16 channels"
            )
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r}; choose from: {', '.join(allowed)}")


_ALLOWED = {
    "form": ("paper", "released"),
    "init": ("absorb", "paper"),
    "subsample": ("l1", "mean"),
    "l1_of": ("all", "winners"),
}


@dataclass(frozen=True)
class Start:
    """First values of a layer's parameters and statistics, shapes as in `FBSConv2d`."""

    weight: Tensor
    running_mean: Tensor
    running_var: Tensor
    beta: Tensor
    saliency_weight: Tensor
    saliency_bias: Tensor


@torch.no_grad()
def start(conv: nn.Conv2d, bn: nn.BatchNorm2d, options: FBSOptions, generator: torch.Generator | None) -> Start:
    """Returns what an FBS layer in place of `conv` and `bn` starts with.

    absorb: saliency bias |gamma|, sign(gamma) in kernel and running mean, shift beta / |gamma| in paper form
        and beta
    in released form. With saliency weights 0 and density 1 that is the trained network, for |gamma| ≥
    GAMMA_FLOOR.

    Raises:
        ValueError: the batch norm keeps no running statistics.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("the batch norm keeps no running statistics (track_running_stats=False)")
    weight, var = conv.weight.detach(), bn.running_var
    mean = bn.running_mean if conv.bias is None else bn.running_mean - conv.bias
    ones = torch.ones_like(mean)
    noise = torch.empty(conv.in_channels, conv.out_channels)
    if options.init == "paper":
        nn.init.trunc_normal_(noise, std=_PAPER_SPREAD, a=-2 * _PAPER_SPREAD, b=2 * _PAPER_SPREAD, generator=generator)
        return Start(weight, mean, var, ones * _PAPER_SHIFT, noise.to(weight), ones * _PAPER_BIAS)
    gamma = ones if bn.weight is None else bn.weight
    beta = ones * 0.0 if bn.bias is None else bn.bias
    sign = torch.where(gamma < 0, -ones, ones)
    size = gamma.abs().clamp_min(GAMMA_FLOOR)
    noise.normal_(0.0, _ABSORB_SPREAD, generator=generator)
    return Start(
        weight=weight * sign[:, None, None, None],
        running_mean=mean * sign,
        running_var=var,
        beta=beta / size if options.form == "paper" else beta,
        saliency_weight=noise.to(weight) * size,
        saliency_bias=size,
    )
