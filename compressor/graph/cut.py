"""Cutting units out of a module's tensors and settings; the part of shrinking that tracing needs for its own proof."""

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compressor.graph.channel_graph import ChannelGraph, LayerChannels, Units

__all__ = ["Keep", "Places", "cut", "hollow", "kept_places", "resize", "sliced"]

Keep = npt.NDArray[np.bool_]  # (units,): True where the unit stays
Places = npt.NDArray[np.int64]  # (new channels,): the place on the old axis that each one takes; -1: it is zero


def kept_places(units: Units, keep: Keep) -> Places:
    """Returns the places of an axis that stay; places of no unit always do."""
    stays = np.ones(len(units), dtype=bool)
    inside = units >= 0
    stays[inside] = keep[units[inside]]
    return np.flatnonzero(stays)


def sliced(tensor: torch.Tensor, axes: tuple[Units | None, ...], keep: Keep) -> torch.Tensor:
    """Returns the tensor without the cut places."""
    return _taken(tensor, axes, lambda units: kept_places(units, keep))


def _taken(tensor: torch.Tensor, axes: tuple[Units | None, ...], places_of: Callable[[Units], Places]) -> torch.Tensor:
    """Returns the tensor with the axes `places_of` gives, itself where none differs."""
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    for dim, units in enumerate(axes):
        if units is None or np.array_equal(places := places_of(units), np.arange(len(units))):
            continue
        index = torch.as_tensor(places, device=tensor.device)
        tensor = tensor.index_select(dim, index.clamp(min=0)).index_fill_(dim, (index < 0).nonzero().flatten(), 0)
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


def hollow(model: nn.Module) -> nn.Module:
    """Returns a copy of a module whose parameters take no memory: only shapes can be computed with it."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        empty = parameter.detach().new_zeros(()).expand(parameter.shape)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, memo)


def cut(model: nn.Module, graph: ChannelGraph, keep: Keep) -> None:
    """Removes units from `model` in place: parameters, buffers and the settings of its layers."""
    resize(model, graph, lambda units: kept_places(units, keep))


def resize(model: nn.Module, graph: ChannelGraph, places_of: Callable[[Units], Places]) -> None:
    """Gives `model` other axes in place: parameters, buffers and the settings of its layers.

    Args:
        model: the network the graph was traced from, or a copy.
        graph: its channel graph.
        places_of: an axis → its new places.
    """
    done: dict[int, nn.Parameter | torch.Tensor] = {}
    for prefix, module in model.named_modules():
        for store, is_parameter in ((module._parameters, True), (module._buffers, False)):
            for leaf, tensor in list(store.items()):
                path = f"{prefix}.{leaf}" if prefix else leaf
                axes = graph.axes.get(graph.aliases.get(path, path))
                if tensor is None or axes is None:
                    continue
                if id(tensor) not in done:
                    old = tensor.detach()
                    new = _taken(old, axes, places_of)
                    if new is old:
                        done[id(tensor)] = tensor
                    elif is_parameter:
                        done[id(tensor)] = nn.Parameter(new.clone(), requires_grad=tensor.requires_grad)
                    else:
                        done[id(tensor)] = new.clone()
                store[leaf] = done[id(tensor)]
    for layer in graph.layers:
        _settings(model, layer, len(places_of(layer.inputs)), len(places_of(layer.outputs)))


def _settings(model: nn.Module, layer: LayerChannels, inputs: int, outputs: int) -> None:
    """Writes the new widths into the module of a layer call."""
    try:
        module = model.get_submodule(layer.name)
    except AttributeError:
        return  # a bare function: no module holds its settings
    if isinstance(module, nn.modules.conv._ConvNd):
        depthwise = module.groups > 1 and layer.groups == len(layer.inputs)
        module.in_channels, module.out_channels = inputs, outputs
        module.groups = inputs if depthwise else layer.groups
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = inputs
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = layer.groups * inputs // len(layer.inputs)
        module.num_channels = inputs
    elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
        module.num_parameters = inputs
