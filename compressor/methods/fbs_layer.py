"""The FBS layer, for training and inference.

    paper form      y = p * (nrm(conv(x)) + beta)
    released form   y = p * nrm(conv(x)) + a * beta        a = 1 on winners, p = s * a

`nrm` is batch norm without its affine part, with statistics over all channels before any of them is masked;
s and a are the saliencies and winners of `compressor.methods.fbs_op`. The network's own activation stays
outside. The mask is a constant for the gradient: only winners teach the predictor and the kernels.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.methods.fbs_folded import FBSFolded, FBSFoldedConv2d
from compressor.methods.fbs_gate import gated_batch_norm, pixel_mean
from compressor.methods.fbs_init import FBSOptions, start
from compressor.methods.fbs_op import fbs_conv, fbs_conv_formula, num_winners, ranking, saliency, winner_mask

__all__ = ["FBSConv2d", "FBSFolded", "FBSFoldedConv2d", "FBSOptions"]


class FBSConv2d(nn.Module):
    """A convolution and the batch norm it feeds, with channels boosted and suppressed per sample.

    (N, C, H, W) -> (N, K, H', W'); all but ceil(density * K) channels of each sample are exactly 0. Training
    normalises with the batch and updates the running statistics, evaluation uses them.

    Args:
        conv: groups 1, zero padding; it is copied, and its bias goes into the statistics.
        bn: fed by `conv` alone, with running statistics.
        options: see `FBSOptions`.
        density: in (0, 1]; a plain attribute, it may change at any time. It counts against `full_width`.
        saliency_slope: of negative saliencies; 0 is ReLU as in the paper, 1 none (released code on layers
            without activation).
        nonnegative_input: the input is known to be ≥ 0, so |x| needs no pass of its own.
        generator: for the predictor's weights; None draws from torch's global one.

    Raises:
        ValueError: `normalize` with signed saliencies, no running statistics, or uneven 'same' padding.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        bn: nn.BatchNorm2d,
        *,
        options: FBSOptions | None = None,
        density: float = 1.0,
        saliency_slope: float = 0.0,
        nonnegative_input: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.options = options or FBSOptions()
        if self.options.normalize and saliency_slope != 0.0:
            raise ValueError("normalize needs saliencies ≥ 0: use it with saliency_slope=0")
        self.density = density
        # K as it was trained: cutting channels that never win must not change how many win.
        self.full_width = conv.out_channels
        self.saliency_slope = saliency_slope
        self.nonnegative_input = nonnegative_input
        self.saliency_l1: Tensor | None = None
        like: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        kernel_size, stride, padding, dilation = _geometry(conv)
        self.conv = nn.Conv2d(
            conv.in_channels, conv.out_channels, kernel_size, stride, padding, dilation, bias=False, **like
        )
        self.bn = nn.BatchNorm2d(conv.out_channels, bn.eps, bn.momentum, affine=False, **like)
        values = start(conv, bn, self.options, generator)
        self.conv.weight = nn.Parameter(values.weight.clone())
        self.bn.running_mean = values.running_mean.clone()
        self.bn.running_var = values.running_var.clone()
        self.beta = nn.Parameter(values.beta.clone())
        self.saliency_weight = nn.Parameter(values.saliency_weight)
        self.saliency_bias = nn.Parameter(values.saliency_bias)

    @property
    def winners(self) -> int:
        """How many channels are computed per sample at the present density."""
        return min(num_winners(self.density, self.full_width, self.options.winner_block), self.conv.out_channels)

    def saliency_and_mask(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Saliencies (N, K), float32 or wider, and winners (N, K), booleans, for x: (N, C, H, W)."""
        plain_mean = self.nonnegative_input or self.options.subsample == "mean"
        scores = saliency(
            pixel_mean(x if plain_mean else x.abs()),
            self.saliency_weight,
            self.saliency_bias,
            slope=self.saliency_slope,
            normalize=self.options.normalize,
        )
        return scores, winner_mask(ranking(scores, self.options.winner_block), self.winners)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W'), suppressed channels exactly 0."""
        return self._forward_training(x) if self.training else self._forward_inference(x)

    def _forward_training(self, x: Tensor) -> Tensor:
        scores, mask = self.saliency_and_mask(x)
        scale = scores * mask
        self.saliency_l1 = (scores if self.options.l1_of == "all" else scale).abs().sum(dim=1).mean()
        offset = scale * self.beta if self.options.form == "paper" else mask * self.beta
        y, mean, var = gated_batch_norm(self.conv(x), scale, offset.to(scale.dtype), self.bn.eps)
        self._track(mean, var, y.numel() // y.shape[1])
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        bn = self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        assert bn.num_batches_tracked is not None
        bn.num_batches_tracked += 1
        momentum = bn.momentum if bn.momentum is not None else 1.0 / float(bn.num_batches_tracked)
        bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), momentum)
        bn.running_var.lerp_((var * (count / max(1, count - 1))).to(bn.running_var.dtype), momentum)

    def _forward_inference(self, x: Tensor) -> Tensor:
        self.saliency_l1 = None
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        layer = self._folded()
        if not self._foldable:
            return self._forward_signed_mean(x, layer)
        with_gradient = torch.is_grad_enabled() and (x.requires_grad or self.beta.requires_grad)
        # The op has no backward of its own; when exporting, parameters that require a gradient do not matter.
        use_formula = with_gradient and not torch.compiler.is_compiling()
        out: Tensor = (fbs_conv_formula if use_formula else fbs_conv)(x, *vars(layer).values())
        return out

    @property
    def _foldable(self) -> bool:
        """`compress::fbs_conv` takes mean |x|; over a signed input the plain mean is another number."""
        return self.nonnegative_input or self.options.subsample == "l1"

    def _forward_signed_mean(self, x: Tensor, layer: FBSFolded) -> Tensor:
        scores, mask = self.saliency_and_mask(x)
        scale = scores * mask
        offset = scale * layer.shift
        if layer.post_shift is not None:
            offset = offset + mask * layer.post_shift
        out = F.conv2d(x, layer.weight.to(x.dtype), None, layer.stride, layer.padding, layer.dilation)
        return out * scale[:, :, None, None].to(out.dtype) + offset[:, :, None, None].to(out.dtype)

    def _folded(self) -> FBSFolded:
        bn = self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        inverse_std = torch.rsqrt(bn.running_var + bn.eps)
        centre = -bn.running_mean * inverse_std
        paper = self.options.form == "paper"
        _, stride, padding, dilation = _geometry(self.conv)
        return FBSFolded(
            weight=self.conv.weight * inverse_std[:, None, None, None],
            shift=self.beta + centre if paper else centre,
            post_shift=None if paper else self.beta,
            saliency_weight=self.saliency_weight,
            saliency_bias=self.saliency_bias,
            winners=self.winners,
            stride=stride,
            padding=padding,
            dilation=dilation,
            saliency_slope=self.saliency_slope,
            normalize=self.options.normalize,
            winner_block=self.options.winner_block,
        )

    @torch.no_grad()
    def fold(self) -> FBSFolded:
        """Plain tensors (copies) of the layer with its running statistics folded in, at its density.

        Raises:
            ValueError: `subsample="mean"` over an input that can be negative: `compress::fbs_conv` cannot
                say it.
        """
        if not self._foldable:
            raise ValueError("subsample='mean' over a signed input cannot be folded; train with subsample='l1'")
        layer = self._folded()
        return replace(
            layer,
            weight=layer.weight.clone(),
            shift=layer.shift.clone(),
            post_shift=None if layer.post_shift is None else layer.post_shift.clone(),
            saliency_weight=layer.saliency_weight.clone(),
            saliency_bias=layer.saliency_bias.clone(),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave out the last pass's norm, which hangs on its graph."""
        return {**self.__dict__, "saliency_l1": None}

    def extra_repr(self) -> str:
        """What print(model) shows besides the parts."""
        return f"density={self.density}, form={self.options.form}, saliency_slope={self.saliency_slope}"


_Pair = tuple[int, int]


def _geometry(conv: nn.Conv2d) -> tuple[_Pair, _Pair, _Pair, _Pair]:
    """Kernel size, stride, padding and dilation as numbers; 'same' becomes them where it is even."""
    kernel_size, stride, dilation = _two(conv.kernel_size), _two(conv.stride), _two(conv.dilation)
    if conv.padding == "valid":
        return kernel_size, stride, (0, 0), dilation
    if conv.padding == "same":
        spans = (dilation[0] * (kernel_size[0] - 1), dilation[1] * (kernel_size[1] - 1))
        if spans[0] % 2 or spans[1] % 2:
            raise ValueError(f"padding='same' pads {spans} pixels unevenly; give the padding as numbers")
        return kernel_size, stride, (spans[0] // 2, spans[1] // 2), dilation
    assert not isinstance(conv.padding, str)
    return kernel_size, stride, _two(conv.padding), dilation


def _two(value: tuple[int, ...]) -> _Pair:
    first, second = value
    return first, second
