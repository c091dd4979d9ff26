"""Widths that a runtime handles badly, made wider with channels of zeros before a network is written."""

from dataclasses import dataclass

from torch import Tensor, nn

from compressor.errors import GraphError
from compressor.graph import trace
from compressor.methods.fbs import layers
from compressor.shrink import can_widen, widen

__all__ = ["PAD_STEP", "Padded", "pad_widths"]

# ONNX Runtime's blocked kernels take widths that are multiples of 4, with blocks of 8 (AVX2) and of 16 (AVX-512);
# anything else goes through a slower path (`compressor.select.alignment`).
PAD_STEP = 4


@dataclass(frozen=True)
class Padded:
    """A network with more channels that computes what it did.

    Attributes:
        model: The network.
        channels: How many channels of zeros it gained, each counted once however many layers hold it.
        groups: In how many groups of channels they lie.
        step: All these groups are multiples of it now.
    """

    model: nn.Module
    channels: int
    groups: int
    step: int

    def summary(self) -> str:
        """One line for people."""
        return (
            f"widths were filled up to multiples of {self.step} with {self.channels} zero channels in {self.groups} "
            "groups: the outputs stay, and ONNX Runtime stays on its fast path; --no-pad leaves them out"
        )


def pad_widths(model: nn.Module, example: Tensor, step: int = PAD_STEP) -> Padded | None:
    """Returns a network whose convolutions have widths that are multiples of `step`; None where nothing can be added.

    Network inputs and outputs, and groups that do not lie side by side, stay as they are; so does a network with FBS
    layers or with zeros in its kernels, which choose or skip by what is there. The file is to be written with
    `sparse="off"`, since these zeros are no pruned kernels.

    Args:
        model: In evaluation mode; not changed.
        example: (N, C, H, W), an input.
        step: Channels.
    """
    if all(module.out_channels % step == 0 for module in model.modules() if isinstance(module, nn.Conv2d)):
        return None  # without the time that tracing takes
    if not _is_filled(model):
        return None
    try:
        graph = trace(model, example)
    except GraphError:
        return None
    convolved = {layer.name for layer in graph.layers if layer.kind.startswith("conv")}
    groups = [group for group in graph.groups if group.size % step and convolved.intersection(group.makers)]
    add = {group.name: -group.size % step for group in groups if can_widen(graph, group)}
    if not add:
        return None
    return Padded(widen(model, graph, add).eval(), sum(add.values()), len(add), step)


def _is_filled(model: nn.Module) -> bool:
    """Whether a network is dense to the last weight: no FBS layers, no kernels with zeros to be skipped."""
    weights = (module.weight for module in model.modules() if isinstance(module, nn.Conv2d))
    return not layers(model) and all(bool((weight != 0).all()) for weight in weights)
