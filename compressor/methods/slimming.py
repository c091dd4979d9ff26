"""Network slimming, the static reference: batch-norm scales under L1, and the smallest of the whole network go.

Liu, Li, Shen, Huang, Yan, Zhang: "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017.
Trained with

    loss + l1 * sum |gamma|            subgradient l1 * sign(gamma), 0 at 0, added to the gradient

over the scales gamma of all batch norms on channels that may be cut; then the score of a unit is the sum of |gamma|
over the batch norms that hold it, and one global threshold (`select`) finds the plan. The paper trains from scratch, l1
1e-4 or 1e-5; here the sparse training starts from a trained network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import ChannelGraph, trace
from compressor.methods.base import Method, Scores

__all__ = ["Slimming"]


@dataclass
class Slimming(Method):
    """Trains with sparse batch-norm scales, and scores channels by them.

    Attributes:
        l1: factor of the sum of |gamma| (paper: 1e-4 on VGG, 1e-5 on ResNet and DenseNet).
        sparse_epochs: of training under it before channels are scored; 0 scores the scales as they are.
    """

    l1: float = 1e-4
    sparse_epochs: int = 20

    def __post_init__(self) -> None:
        # No fields: settings stay plain.
        self._graph: ChannelGraph | None = None
        self._scales: tuple[str, ...] = ()

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Returns the network as it is; remembers its channel graph.

        Raises:
            MethodError: no batch norm has a scale on channels that may be cut, or a setting is below 0.
        """
        if below := [f"{name}={value} is below 0" for name, value in self.settings().items() if value < 0]:
            raise MethodError(f"slimming: {'; '.join(below)}")
        self._graph = graph = trace(model, example)
        free = {u for g in graph.groups if g.frozen is None for u in range(g.start, g.start + g.size)}
        norms = {n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine}
        scales = {f"{layer.name}.weight": layer.outputs for layer in graph.layers if layer.name in norms}
        self._scales = tuple(path for path, units in scales.items() if free.intersection(units.tolist()))
        if not self._scales:
            raise MethodError(f"no batch norm of {type(model).__name__} has a scale on channels that may be cut")
        return model

    def training_epochs(self) -> int:
        """Returns `sparse_epochs`."""
        return self.sparse_epochs

    def after_backward(self, model: nn.Module) -> None:
        """Adds the subgradient of l1 * sum |gamma|."""
        for path in self._scales:
            scale = model.get_parameter(path)
            if scale.grad is not None:
                scale.grad.add_(scale.detach().sign(), alpha=self.l1)

    def scores(self, model: nn.Module) -> Scores:
        """Returns the summed |gamma| of every unit of every group that may be cut.

        Where no scale is on a unit its score is larger than any other: it stays as long as the budget allows.

        Raises:
            MethodError: `attach` has not been called.
        """
        if self._graph is None:
            raise MethodError("slimming has no channel graph yet; call attach(model, example) first")
        graph = self._graph
        total, held = torch.zeros(graph.num_units), torch.zeros(graph.num_units, dtype=torch.bool)
        for path in self._scales:
            (axis,) = graph.axes[path]
            units = torch.as_tensor(axis)
            inside = units >= 0
            total.index_add_(0, units[inside], model.get_parameter(path).detach().abs().float().cpu()[inside])
            held[units[inside]] = True
        total[~held] = total.sum() + 1
        return Scores({g.name: total[g.start : g.start + g.size] for g in graph.groups if g.frozen is None})
