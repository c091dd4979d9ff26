"""What tracing a network yields: which channels belong together, and where each layer holds them.

A *unit* is the smallest thing that can be cut: all the channels, in all the layers, that must go together. Units with
the same places form a `ChannelGroup`; the units of a group are numbered 0..size-1, and everywhere else a unit has its
global number ``group.start + index``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Branch", "ChannelGraph", "ChannelGroup", "LayerChannels", "Units"]

Units = npt.NDArray[np.int64]  # (channels,): global unit of each channel; negative: not part of any unit, always kept


@dataclass(frozen=True)
class ChannelGroup:
    """Units that sit in the same places; a plan says which of them stay.

    Attributes:
        name: module that first makes these channels; `#2`, `#3` … when one module makes channels of several groups.
        start: global number of unit 0.
        size: number of units.
        layers: modules (and parameters outside modules) that hold these channels, in the order of their first use.
        makers: convolutions and linear layers that write them.
        frozen: why no unit may be cut; None where cutting is allowed.
        width: channels per unit in the first maker; above 1 for grouped convolutions, splits and group norms.
    """

    name: str
    start: int
    size: int
    layers: tuple[str, ...]
    makers: tuple[str, ...] = ()
    frozen: str | None = None
    width: int = 1


@dataclass(frozen=True, eq=False)
class LayerChannels:
    """One call of a convolution, linear or normalisation layer, with the units on both of its sides.

    Attributes:
        name: module path; the parameter's path where the layer is a bare function.
        kind: operator, such as `conv2d`, `conv_transpose2d`, `linear`, `batch_norm`, `group_norm`.
        weight: path of the weight, None where the layer has none.
        inputs: (in_channels,) units read; all in_channels, also of a grouped convolution.
        outputs: (out_channels,) units written.
        groups: convolution groups, or statistics groups of a group norm; 1 elsewhere.
        macs: multiply-accumulates of this call for one sample of the traced size; 0 for normalisations.
        norm: path of the batch norm that this call alone feeds; None where there is none.
    """

    name: str
    kind: str
    weight: str | None
    inputs: Units
    outputs: Units
    groups: int = 1
    macs: int = 0
    norm: str | None = None


@dataclass(frozen=True)
class Branch:
    """A residual branch that may be cut to nothing, `branches` says when.

    Attributes:
        name: path of the block: `activation(shortcut(x) + branch(x))`.
        groups: channel groups inside the branch; they go together.
        last: path of the branch's last convolution or linear layer.
        after: paths of the modules between it and the sum.
        shortcut: path of the module on the other side of the sum; None where it is the input itself.
        activation: path of the module after the sum; `relu` for a bare function; None where there is none.
    """

    name: str
    groups: tuple[str, ...]
    last: str
    after: tuple[str, ...]
    shortcut: str | None
    activation: str | None


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """Channel groups of one network and where its layers and parameters hold them.

    Attributes:
        groups: in the order in which the network makes the channels.
        layers: one entry per call, in execution order; a module used twice appears twice.
        axes: path of each parameter and buffer → one entry per dimension: its units, or None where it is never cut.
        shapes: path of each parameter, tied ones once → its shape.
        aliases: path of a tied parameter → the path under which `axes` lists it.
        unreached: parameters the traced run never used; they are left as they are.
        outputs: shapes of the network's output tensors for the traced example.
        branches: residual branches that may be cut to nothing.
    """

    groups: tuple[ChannelGroup, ...]
    layers: tuple[LayerChannels, ...]
    axes: Mapping[str, tuple[Units | None, ...]]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    unreached: tuple[str, ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()
    branches: tuple[Branch, ...] = ()

    @property
    def num_units(self) -> int:
        """Number of units in all groups."""
        return sum(group.size for group in self.groups)

    def group(self, name: str) -> ChannelGroup:
        """Returns the group of that name.

        Raises:
            KeyError: no group has it.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)
