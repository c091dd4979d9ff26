"""Gates: one trainable factor per filter, on the batch norm behind it or on the filter's own output.

    batch norm    y = gamma * nrm(x) + beta
    gated         y = m * f * (nrm(x) + b)             m in {0, 1} mask, f gate, b shift (You et al. 2019, section 3)
    no batch norm y = m * f * (conv(x) + bias)         (their appendix B; the place of the bias is a reconstruction)

The gate multiplies the whole output, the shift included, so f = 0 removes the channel. As one scale m * f and one
offset m * f * b, a gated batch norm costs what a batch norm costs.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

__all__ = ["BatchNorm", "Filters", "GatedBatchNorm", "gate_filters", "gated", "ungate_filters"]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Filters = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear

# Released code. Beyond it gate and batch norm differ: gamma so small against beta is as good as a constant channel.
_MAX_SHIFT = 10.0
# Below it beta / gamma says nothing; the channel counts as dead.
_LEAST_SCALE = 1e-8


class GatedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """y = mask * weight * (nrm(x) + bias): `weight` is the gate f, `bias` the shift b, `mask` (C,) is 0 or 1.

    Parameters and statistics have a batch norm's own names, so a channel graph of the plain network fits. In training
    on several processes the statistics are those of the whole batch, of all of them together.

    Args:
        plain: an affine batch norm with running statistics; its tensors are copied.
    """

    mask: Tensor

    def __init__(self, plain: BatchNorm) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum)
        self.to(plain.weight.device, plain.weight.dtype)
        self.plain = type(plain)
        with torch.no_grad():
            dead = plain.weight.abs() < _LEAST_SCALE
            shift = (plain.bias / torch.where(dead, 1.0, plain.weight)).clamp(-_MAX_SHIFT, _MAX_SHIFT)
            self.weight.copy_(torch.where(dead, 0.0, plain.weight))
            self.bias.copy_(torch.where(dead, 0.0, shift))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            value = getattr(plain, name)
            assert isinstance(value, Tensor)
            setattr(self, name, value.clone())
        self.register_buffer("mask", torch.ones_like(plain.weight.detach()))
        self.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, C, …) for (N, C, …)."""
        scale = self.weight * self.mask
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return self._forward_ranks(x, scale)
        momentum = self.momentum if self.momentum is not None else 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        return F.batch_norm(
            x, self.running_mean, self.running_var, scale, scale * self.bias, self.training, momentum, self.eps
        )

    def _forward_ranks(self, x: Tensor, scale: Tensor) -> Tensor:
        """The same with statistics over all ranks; differentiable through their sums."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        wide = x.float()
        over = [0, *range(2, x.dim())]
        count = wide.new_tensor([float(wide.numel() // wide.shape[1])])
        # Two passes: squares of large means would cancel.
        sums = _sum_over_ranks(torch.cat([wide.sum(over), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        shape = (1, -1, *(1,) * (x.dim() - 2))
        centred = wide - mean.reshape(shape)
        var = _sum_over_ranks(centred.square().sum(over)) / total
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((var * (total / (total - 1).clamp_min(1))).to(self.running_var.dtype), momentum)
        slope = (scale * torch.rsqrt(var + self.eps)).reshape(shape)
        out: Tensor = (centred * slope + (scale * self.bias).reshape(shape)).to(x.dtype)
        return out

    def _check_input_dim(self, input: Tensor) -> None:
        """All numbers of dimensions are fine."""

    def fold(self) -> BatchNorm:
        """Returns the plain batch norm with the same output; masked channels put out 0."""
        plain = self.plain(self.num_features, self.eps, self.momentum)
        plain = plain.to(self.weight.device, self.weight.dtype)
        with torch.no_grad():
            plain.weight.copy_(self.weight * self.mask)
            plain.bias.copy_(self.weight * self.mask * self.bias)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(plain, name, getattr(self, name).clone())
        return plain.train(self.training)


def _sum_over_ranks(value: Tensor) -> Tensor:
    total: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]  # torch's own has no types
    return total


def gate_filters(layer: nn.Module) -> None:
    """Changes `layer`, one of `Filters`: it gets a parameter `gate` of ones and a buffer `mask`, both (out,)."""
    assert isinstance(layer, Filters)
    ones = layer.weight.new_ones(layer.weight.shape[0])
    layer.register_parameter("gate", nn.Parameter(ones.clone()))
    layer.register_buffer("mask", ones)
    layer.register_forward_hook(_multiply)


def gated(layer: nn.Module) -> bool:
    """Says whether `gate_filters` has changed a layer."""
    return isinstance(layer, Filters) and "gate" in layer._parameters


def ungate_filters(layer: nn.Module) -> None:
    """Changes `layer` back: W' = m * f * W, bias' = m * f * bias."""
    assert isinstance(layer, Filters)
    factor = (layer.get_parameter("gate") * layer.get_buffer("mask")).detach()
    with torch.no_grad():
        layer.weight.mul_(factor.reshape(-1, *(1,) * (layer.weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.mul_(factor)
    del layer.gate, layer.mask
    for key, hook in list(layer._forward_hooks.items()):
        if hook is _multiply:
            del layer._forward_hooks[key]


def _multiply(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The forward hook of a gated layer: its output times gate and mask, channel by channel."""
    factor = (layer.get_parameter("gate") * layer.get_buffer("mask")).to(output.dtype)
    if isinstance(layer, nn.Linear):
        return output * factor
    assert isinstance(layer, Filters)
    return output * factor.reshape(-1, *(1,) * (layer.weight.dim() - 2))
