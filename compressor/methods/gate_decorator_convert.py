"""From a plain network to one with gates and back, and the masks of the channels that are gone.

Which places get a gate:

1. A convolution or linear layer that makes channels which may be cut and that alone feeds a batch norm: the batch norm.
2. Any other such layer: its own output. A layer that is called several times, a transposed convolution and a layer of
   another type get none; their channels are still cut with their group where others of it are gated.
3. Any other batch norm over channels that may be cut (pre-activation, after a concatenation): gated too, so that a
   masked channel is silent behind it, but not a member: it neither scores nor counts.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import ChannelGraph, Units
from compressor.graph.cut import Keep
from compressor.methods.gate_decorator_layer import (
    BatchNorm,
    Filters,
    GatedBatchNorm,
    gate_filters,
    gated,
    ungate_filters,
)

__all__ = ["Gate", "add_gates", "find_gates", "fold_gates", "gates_of", "set_masks"]


@dataclass(frozen=True, eq=False)
class Gate:
    """One gated place of a network.

    Attributes:
        name: path of the batch norm or layer that carries it.
        units: (channels,) global unit of each of its channels; negative: never cut.
        member: it belongs to a layer that makes these channels, so it scores and counts.
    """

    name: str
    units: Units
    member: bool

    def factor(self, model: nn.Module) -> nn.Parameter:
        """Returns the gate f, (channels,)."""
        carrier = model.get_submodule(self.name)
        return carrier.weight if isinstance(carrier, GatedBatchNorm) else carrier.get_parameter("gate")

    def mask(self, model: nn.Module) -> Tensor:
        """Returns the mask m, (channels,)."""
        return model.get_submodule(self.name).get_buffer("mask")


def find_gates(model: nn.Module, graph: ChannelGraph) -> tuple[Gate, ...]:
    """Returns where a plain network gets gates, in the order of computation.

    Raises:
        MethodError: it gets none.
    """
    free = {u for g in graph.groups if g.frozen is None for u in range(g.start, g.start + g.size)}
    modules = dict(model.named_modules())
    calls = [layer.name for layer in graph.layers]
    found: dict[str, Gate] = {}
    for layer in graph.layers:
        if not free.intersection(layer.outputs.tolist()) or calls.count(layer.name) > 1:
            continue
        module = modules.get(layer.name)
        if layer.macs and layer.norm is not None and _fits(modules.get(layer.norm)) and calls.count(layer.norm) == 1:
            found[layer.norm] = Gate(layer.norm, layer.outputs, member=True)
        elif layer.macs and isinstance(module, Filters):
            found[layer.name] = Gate(layer.name, layer.outputs, member=True)
        elif layer.name not in found and _fits(module):
            found[layer.name] = Gate(layer.name, layer.outputs, member=False)
    gates = tuple(found.values())
    if not any(gate.member for gate in gates):
        raise MethodError(
            f"no layer of {type(model).__name__} can carry a gate: none of its channels may be cut; "
            "compress inspect lists the reasons"
        )
    return gates


def _fits(module: nn.Module | None) -> bool:
    return isinstance(module, BatchNorm) and module.affine and module.running_mean is not None


def add_gates(model: nn.Module, gates: tuple[Gate, ...]) -> nn.Module:
    """Returns a copy with gates at the places that `find_gates` named; same outputs in training and evaluation.

    Equal but for rounding, and but for channels whose |beta / gamma| is above 10: their shift is clipped there.
    """
    copied = copy.deepcopy(model)
    for gate in gates:
        carrier = copied.get_submodule(gate.name)
        if isinstance(carrier, BatchNorm):
            copied.set_submodule(gate.name, GatedBatchNorm(carrier))
        else:
            gate_filters(carrier)
    return copied


def fold_gates(model: nn.Module) -> nn.Module:
    """Returns a copy without gates: the plain network of the same outputs. A plain network comes back as it is."""
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, GatedBatchNorm):
            plain.set_submodule(name, module.fold())
        elif gated(module):
            ungate_filters(module)
    return plain


def gates_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields (path, module) of everything gated in a network."""
    for name, module in model.named_modules():
        if isinstance(module, GatedBatchNorm) or gated(module):
            yield name, module


def set_masks(model: nn.Module, gates: tuple[Gate, ...], keep: Keep) -> None:
    """Changes `model`: channels of units that are not kept are masked, and stay so: a mask is never taken back.

    Args:
        model: has these gates.
        gates: their places.
        keep: (units,) booleans.
    """
    for gate in gates:
        stays = torch.as_tensor((gate.units < 0) | keep[gate.units])
        mask = gate.mask(model)
        mask.mul_(stays.to(mask))
