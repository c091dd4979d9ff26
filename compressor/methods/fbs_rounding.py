"""An FBS network's weights as numbers of 16 or 8 bits: fewer bytes to store, keep and read; arithmetic stays float.

    16 bits     w' = the nearest IEEE 754 binary16
    8 bits      w' = q * step[k], q whole from -127 to 127; step[k] = max over output k of |w| / 127, rounded up

A predictor's matrix (C, K) is as large as a 1x1 layer's kernels; in networks of many such layers half of what the dense
network weighs comes on top, is read for every image, and must stay in memory. Kernels are read as often: where planes
are small, a layer waits for them longer than it multiplies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.methods.fbs import layers

__all__ = [
    "Rounded",
    "round_predictors",
    "round_predictors_to_bytes",
    "round_weights",
    "round_weights_to_bytes",
]


@dataclass(frozen=True)
class Rounded:
    """What a rounding did.

    Attributes:
        count: How many weights were rounded.
        stored_bytes: What they take in a file, steps included.
        change: The largest, as a fraction of the layer's largest weight.
    """

    count: int
    stored_bytes: int
    change: float


def round_predictors(model: nn.Module) -> Rounded:
    """Changes `model`: each saliency weight becomes the nearest number of 16 bits.

    Raises:
        MethodError: The network has no FBS layers, or a weight is too large; nothing is changed then.
    """
    return _round_predictors(model, _HALF)


def round_predictors_to_bytes(model: nn.Module) -> Rounded:
    """Changes `model`: each saliency weight becomes the nearest of 255 multiples of its output's step.

    Raises:
        MethodError: The network has no FBS layers, or a weight is too large; nothing is changed then.
    """
    return _round_predictors(model, _BYTE)


def round_weights(model: nn.Module) -> Rounded:
    """Changes `model`: weights of FBS layers, batch norm folded in, and of linear layers, to numbers of 16 bits.

    A layer's variances move into its weights and become 1, so that what is folded later are the rounded numbers.
    Predictors stay as they are.

    Raises:
        MethodError: The network has no FBS layers, or a weight is too large; nothing is changed then.
    """
    return _round_weights(model, _HALF)


def round_weights_to_bytes(model: nn.Module) -> Rounded:
    """As `round_weights`, but to the nearest of 255 multiples of each output's step.

    Raises:
        MethodError: The network has no FBS layers, or a weight is too large; nothing is changed then.
    """
    return _round_weights(model, _BYTE)


@dataclass(frozen=True)
class _Form:
    """Numbers that weights are rounded to.

    Attributes:
        bits: Of each.
        step_bytes: Stored for each output besides.
        largest: Weight that there may be.
        nearest: (weights, the axis of the outputs) -> the nearest such numbers.
    """

    bits: int
    step_bytes: int
    largest: float
    nearest: Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class _Weights:
    """One layer's weights, and the axis of its outputs."""

    values: Tensor
    axis: int


def _halves(weight: Tensor, axis: int) -> Tensor:
    return weight.half().to(weight.dtype)


# A step has so many bits that a number of 7 times it is exact in float32, and that it is found again from the largest.
_STEP_BITS = 10
_SMALLEST_STEP = 2.0**-100  # a bias over it is still a float32; smaller weights become 0
_LARGEST_LEVEL = 127


def _bytes(weight: Tensor, axis: int) -> Tensor:
    others = [other for other in range(weight.ndim) if other != axis]
    step = weight.abs().amax(others, keepdim=True).double() / _LARGEST_LEVEL
    mantissa, exponent = torch.frexp(step.clamp_min(_SMALLEST_STEP))
    step = torch.ldexp(torch.ceil(mantissa * 2**_STEP_BITS) / 2**_STEP_BITS, exponent).to(weight.dtype)
    return torch.round(weight / step) * step


_HALF = _Form(16, 0, torch.finfo(torch.float16).max, _halves)
_BYTE = _Form(8, 4, torch.finfo(torch.float32).max / 2, _bytes)  # a step rounded up must not overflow


@torch.no_grad()
def _round_predictors(model: nn.Module, form: _Form) -> Rounded:
    weights = {name: _Weights(layer.saliency_weight, 1) for name, layer in layers(model).items()}
    rounded, result = _rounded("predictors", "saliency weights", form, weights)
    for name, weight in weights.items():
        weight.values.copy_(rounded[name])
    return result


@torch.no_grad()
def _round_weights(model: nn.Module, form: _Form) -> Rounded:
    found = layers(model)
    factors = {name: torch.rsqrt(_variance(layer.bn) + layer.bn.eps) for name, layer in found.items()}
    weights = {
        name: _Weights(layer.conv.weight * factors[name][:, None, None, None], 0) for name, layer in found.items()
    }
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    weights |= {name: _Weights(module.weight, 0) for name, module in linear.items() if weights}
    rounded, result = _rounded("weights", "weights", form, weights)
    for name, layer in found.items():
        layer.conv.weight.copy_(rounded[name])
        assert layer.bn.running_mean is not None
        layer.bn.running_mean.mul_(factors[name])
        _variance(layer.bn).fill_(1)
        layer.bn.eps = 0.0
    for name, module in linear.items():
        module.weight.copy_(rounded[name])
    return result


def _variance(bn: nn.BatchNorm2d) -> Tensor:
    assert bn.running_var is not None
    return bn.running_var


def _rounded(option: str, what: str, form: _Form, weights: Mapping[str, _Weights]) -> tuple[dict[str, Tensor], Rounded]:
    """The nearest numbers, by layer, and what they differ by."""
    if not weights:
        raise MethodError(
            f"{option} of {form.bits} bits: the network has no FBS layers; "
            "leave it out, or prune with --method fbs first"
        )
    rounded, stored_bytes, change = {}, 0, 0.0
    for name, weight in weights.items():
        size = weight.values.abs()
        if not bool((size <= form.largest).all()):
            raise MethodError(
                f"{option} of {form.bits} bits: layer {name} has {what} up to {size.max():.3g}; "
                f"allowed is {form.largest:g}; leave its {option} in float32"
            )
        rounded[name] = form.nearest(weight.values, weight.axis)
        stored_bytes += weight.values.numel() * form.bits // 8 + weight.values.shape[weight.axis] * form.step_bytes
        change = max(change, float((rounded[name] - weight.values).abs().max() / size.max().clamp_min(1e-30)))
    count = sum(weight.values.numel() for weight in weights.values())
    return rounded, Rounded(count, stored_bytes, change)
