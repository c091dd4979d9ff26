"""Magnitude pruning, the plain reference: a channel matters as much as its filters are large.

    score(u) = (1/K) · Σ_k  ‖W_k[u]‖₁ / mean_v ‖W_k[v]‖₁        over the K layers that make or read the channels

after Li et al., "Pruning Filters for Efficient ConvNets" (2017), summed over the group as in Fang et al., "DepGraph"
(2023). ‖W_k[u]‖₁ is the sum of absolute weights of unit u in layer k; dividing by the mean over the group's units makes
layers, and groups, comparable. Biases and norms do not count.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import ChannelGraph, trace
from compressor.methods.base import Method, Scores

__all__ = ["L1"]


@dataclass
class L1(Method):
    """Scores channels by the magnitude of the weights that make and read them; trains nothing.

    Attributes:
        readers: count the weights that read a channel as well as those that make it.
    """

    readers: bool = True

    def __post_init__(self) -> None:
        self._graph: ChannelGraph | None = None  # no field: settings stay plain

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Returns the network as it is; remembers its channel graph."""
        self._graph = trace(model, example)
        return model

    def scores(self, model: nn.Module) -> Scores:
        """Returns the score of every unit of every group that may be cut.

        Raises:
            MethodError: `attach` has not been called.
        """
        if self._graph is None:
            raise MethodError("l1 has no channel graph yet; call attach(model, example) first")
        return Scores(magnitudes(model, self._graph, readers=self.readers))


def magnitudes(model: nn.Module, graph: ChannelGraph, *, readers: bool = True) -> Mapping[str, Tensor]:
    """Returns group name → (units,) scores of the groups that may be cut; larger matters more."""
    total = torch.zeros(graph.num_units, dtype=torch.float64)
    layers = torch.zeros(len(graph.groups), dtype=torch.float64)
    group_of = torch.repeat_interleave(torch.arange(len(graph.groups)), torch.tensor([g.size for g in graph.groups]))
    made_on = {layer.weight: 1 if "transpose" in layer.kind else 0 for layer in graph.layers if layer.macs}
    for path, parameter in model.named_parameters():
        if path not in made_on or path in graph.aliases:
            continue
        for dim, units in enumerate(graph.axes.get(path, ())):
            if units is None or not (readers or dim == made_on[path]):
                continue
            index = torch.as_tensor(units)
            inside = index >= 0
            other = [d for d in range(parameter.dim()) if d != dim]
            size = parameter.detach().abs().double().sum(other).cpu()
            sums = torch.zeros(graph.num_units, dtype=torch.float64).index_add_(0, index[inside], size[inside])
            held = torch.zeros(len(graph.groups), dtype=torch.float64)
            held.index_add_(0, group_of, sums)
            sizes = torch.tensor([g.size for g in graph.groups], dtype=torch.float64)
            mean = held / sizes
            total += torch.where(mean[group_of] > 0, sums / mean[group_of].clamp_min(1e-30), 0)
            layers += (held > 0).double()
    score = total / layers[group_of].clamp_min(1)
    return {g.name: score[g.start : g.start + g.size].float() for g in graph.groups if g.frozen is None}
