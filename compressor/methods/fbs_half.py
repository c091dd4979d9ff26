"""An FBS network's weights as numbers of 16 bits (IEEE 754 binary16): half the bytes to store, keep and read.

A predictor's matrix (C, K) is as large as a 1x1 layer's kernels; in networks of many such layers half of what the dense
network weighs comes on top, is read for every image, and must stay in memory. Kernels are read as often: where planes
are small, a layer waits for them longer than it multiplies.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.methods.fbs import layers

__all__ = ["round_predictors", "round_weights"]


@torch.no_grad()
def round_predictors(model: nn.Module) -> tuple[int, float]:
    """Changes `model`: each saliency weight becomes the nearest number of 16 bits.

    Returns how many weights there are, and the largest change, as a fraction of the layer's largest weight.

    Raises:
        MethodError: The network has no FBS layers, or a weight is too large; nothing is changed then.
    """
    weights = {name: layer.saliency_weight for name, layer in layers(model).items()}
    rounded, count, change = _rounded("predictors", "saliency weights", weights)
    for name, weight in weights.items():
        weight.copy_(rounded[name])
    return count, change


@torch.no_grad()
def round_weights(model: nn.Module) -> tuple[int, float]:
    """Changes `model`: weights of FBS layers, batch norm folded in, and of linear layers, to numbers of 16 bits.

    A layer's variances move into its weights and become 1, so that what is folded later are the rounded numbers.
    Predictors stay as they are. Returns as `round_predictors`.

    Raises:
        MethodError: The network has no FBS layers, or a weight is too large; nothing is changed then.
    """
    found = layers(model)
    factors = {name: torch.rsqrt(_variance(layer.bn) + layer.bn.eps) for name, layer in found.items()}
    weights = {name: layer.conv.weight * factors[name][:, None, None, None] for name, layer in found.items()}
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    weights |= {name: module.weight for name, module in linear.items() if weights}
    rounded, count, change = _rounded("weights", "weights", weights)
    for name, layer in found.items():
        layer.conv.weight.copy_(rounded[name])
        assert layer.bn.running_mean is not None
        layer.bn.running_mean.mul_(factors[name])
        _variance(layer.bn).fill_(1)
        layer.bn.eps = 0.0
    for name, module in linear.items():
        module.weight.copy_(rounded[name])
    return count, change


def _variance(bn: nn.BatchNorm2d) -> Tensor:
    assert bn.running_var is not None
    return bn.running_var


def _rounded(option: str, what: str, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int, float]:
    """The nearest numbers of 16 bits, by layer; how many there are, and the largest change of one."""
    if not weights:
        raise MethodError(
            f"{option} of 16 bits: the network has no FBS layers; leave it out, or prune with --method fbs first"
        )
    largest = torch.finfo(torch.float16).max
    for name, weight in weights.items():
        if not bool((weight.abs() <= largest).all()):
            raise MethodError(
                f"{option} of 16 bits: layer {name} has {what} up to {weight.abs().max():.3g}; "
                f"allowed is {largest:g}; leave its {option} in float32"
            )
    rounded = {name: weight.half().to(weight.dtype) for name, weight in weights.items()}
    change = 0.0
    for name, weight in weights.items():
        change = max(change, float((rounded[name] - weight).abs().max() / weight.abs().max().clamp_min(1e-30)))
    return rounded, sum(weight.numel() for weight in weights.values()), change
