"""Training with fixed-point weights: the network computes with Q(w), the updates go to a float copy of w.

    forward    Q(w) = levels(w, D) * D              D stays what it was chosen to be
    backward   dL/dw = dL/dQ * live                 straight through; a pruned weight gets no gradient

A pruned weight is 0 in the copy, gets no gradient and does not decay, so it stays exactly 0 (arXiv 1512.08571; the form
of the step is a reconstruction).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.quantise.quantiser import FixedPoint, dequantise, to_levels

__all__ = ["MasterWeight", "keep_masters", "release_masters"]


class _StraightThrough(torch.autograd.Function):
    """Q(w) forwards; the gradient of live weights as it is backwards."""

    @staticmethod
    # Any: torch's context has attributes of every kind.
    def forward(ctx: Any, master: Tensor, step: Tensor, live: Tensor, bits: int, axis: int | None) -> Tensor:
        ctx.save_for_backward(live)
        levels = to_levels(master, step, bits, axis)
        return dequantise(FixedPoint(levels, step, bits, axis)).to(master.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (live,) = ctx.saved_tensors
        return grads[0] * live, None, None, None, None


class MasterWeight(nn.Module):
    """A parametrization that turns the float copy into fixed-point values on every use.

    Args:
        fixed: Gives step, bits and axis; its levels only say how the tensor starts.
        live: Of the weight's shape, False where a weight is pruned.
    """

    step: Tensor
    live: Tensor

    def __init__(self, fixed: FixedPoint, live: Tensor) -> None:
        super().__init__()
        self.bits = fixed.bits
        self.axis = fixed.axis
        self.register_buffer("step", fixed.step.clone())
        self.register_buffer("live", live.clone())

    def forward(self, master: Tensor) -> Tensor:
        """Returns Q(master), of the same shape."""
        result: Tensor = _StraightThrough.apply(master, self.step, self.live, self.bits, self.axis)
        return result


def keep_masters(model: nn.Module, fixed: Mapping[str, FixedPoint]) -> None:
    """Changes `model`: the named parameters become float copies that the network sees in fixed point.

    Weights that are 0 now are pruned and stay 0.
    """
    for name, values in fixed.items():
        module, tensor = _owner(model, name)
        live = getattr(module, tensor).detach() != 0
        parametrize.register_parametrization(module, tensor, MasterWeight(values, live))


def release_masters(model: nn.Module, names: list[str]) -> dict[str, FixedPoint]:
    """Changes `model`: the named tensors are plain parameters again, with their fixed-point values. Returns these."""
    fixed = {}
    for name in names:
        module, tensor = _owner(model, name)
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        parts = parametrizations[tensor]
        assert isinstance(parts, parametrize.ParametrizationList)
        kept = parts[0]
        assert isinstance(kept, MasterWeight)
        assert isinstance(parts.original, Tensor)
        step = kept.step.cpu()
        levels = to_levels(parts.original.detach().cpu(), step, kept.bits, kept.axis)
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
        fixed[name] = FixedPoint(levels, step, kept.bits, kept.axis)
    return fixed


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter, and what it is called there."""
    path, _, tensor = name.rpartition(".")
    return model.get_submodule(path), tensor
