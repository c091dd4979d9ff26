"""Which tensors of a network become fixed-point, and how they are put into it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.quantise.quantiser import FixedPoint, dequantise, quantise

__all__ = ["Scheme", "apply", "kernel_names", "quantise_all"]

_KERNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Scheme:
    """How steps are chosen.

    Attributes:
        per_channel: One step for each output channel instead of one for the layer.
        pow2: Only steps 2^-n.
    """

    per_channel: bool = False
    pow2: bool = False


def kernel_names(model: nn.Module) -> list[str]:
    """Returns the names of all convolution kernels and linear weights, in the network's order.

    Biases, batch norms and transposed convolutions are not among them: they stay float32.
    """
    return [f"{name}.weight".lstrip(".") for name, module in model.named_modules() if isinstance(module, _KERNELS)]


def quantise_all(
    state: Mapping[str, Tensor], bits: Mapping[str, int], scheme: Scheme, *, axes: Mapping[str, int] | None = None
) -> dict[str, FixedPoint]:
    """Returns the tensors of `bits` in fixed point.

    Args:
        state: Tensors by name.
        bits: Word length by name.
        scheme: How steps are chosen.
        axes: The output dimension of tensors that have it elsewhere than in front.

    Raises:
        ValueError: A word length is out of range, or a weight is not finite.
    """
    places = axes or {}
    return {
        name: quantise(state[name], number, axis=places.get(name, 0) if scheme.per_channel else None, pow2=scheme.pow2)
        for name, number in bits.items()
    }


@torch.no_grad()
def apply(model: nn.Module, fixed: Mapping[str, FixedPoint]) -> None:
    """Changes `model`: the named tensors become what their levels stand for."""
    parameters = dict(model.named_parameters())
    for name, values in fixed.items():
        parameters[name].copy_(dequantise(values))
