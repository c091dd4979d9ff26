"""Structured pruning with a particle filter: channels, kernels, and strides inside kernels.

Anwar, Hwang, Sung: "Structured Pruning of Deep Convolutional Neural Networks", arXiv 1512.08571 (2015), ACM JETC 13(3),
2017. Three granularities, coarse to fine: whole channels (removed physically), single kernels, and positions inside
kernels that a stride and an offset leave (`structured_masks`). Which units go, a particle filter finds by the
misclassification rates of masks (`structured_filter`), fast because nothing is computed twice (`structured_evaluator`);
the network is retrained after each search. Of the paper only the abstract and short summaries were at hand: sizes,
operators, the order of layers and all numbers here are a reconstruction.

The hooks keep what is pruned pruned: a kernel weight that is exactly 0 when the method is attached gets no gradient and
is 0 again after every step, whatever momentum and weight decay do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.methods.base import Method
from compressor.methods.structured_filter import FilterSettings

__all__ = ["Structured"]

_SCOPES = ("layer", "net")
_SHARING = ("source", "layer", "none")


@dataclass
class Structured(Method):
    """Hyper-parameters of structured pruning; a budget asks for channels, two fields for the other granularities.

    Attributes:
        kernel_density: part of each layer's kernels that stays, in (0, 1]; 1 prunes no kernels. Layers that read the
            network's input, linear layers and grouped convolutions keep all.
        stride: s of the positions that stay inside kernels; 1 keeps all.
        strided_part: part of the source maps that get the stride, in (0, 1].
        per_axis: rows and columns have an offset each; else the kernel is flattened row by row.
        sharing: all kernels of a `source` map, or of the whole `layer`, have one offset; `none` leaves each its own,
            which saves storage only.
        scope: search one `layer` after the other, retraining after each, or the whole `net` at once.
        guided: part of the masks that draw units of small weights sooner; 0 draws uniformly, as specified.
        particles: masks in flight.
        steps: in which the number of pruned units rises.
        hold: steps more at the final number.
        kappa: exponent of (1 - misclassification rate) in the weights.
        literal: kappa is 1, the literal reading of the paper.
        mutation: probability that a mask is mutated in a step.
        crossover: part of the masks that become children in a step.
        images: training images, held out of the retraining while searches last, on which masks are evaluated; at most
            a fifth of them.
        batch_statistics: masks are evaluated with batch norms that measure anew, on the evaluated batch.
        layer_epochs: of retraining after each search.
        max_drop: where the validation metric after retraining lies further below the start, as a part of 1, a search
            of kernels or strides goes back one step: to the best mask of the step before, retrained from where the
            search began, and so on; past the first step nothing is pruned. Channels answer for a budget and stay gone.
    """

    kernel_density: float = 1.0
    stride: int = 1
    strided_part: float = 1.0
    per_axis: bool = False
    sharing: str = "source"
    scope: str = "layer"
    guided: float = 0.5
    particles: int = 50
    steps: int = 5
    hold: int = 5
    kappa: float = 10.0
    literal: bool = False
    mutation: float = 0.1
    crossover: float = 0.3
    images: int = 2000
    batch_statistics: bool = False
    layer_epochs: int = 1
    max_drop: float = 0.01

    def __post_init__(self) -> None:
        self._pruned: dict[str, Tensor] = {}  # no field: settings stay plain

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Returns the network as it is; remembers which of its kernel weights are 0.

        Raises:
            MethodError: A setting is not allowed.
        """
        self.check()
        kernels = {path: p.detach() for path, p in model.named_parameters() if p.dim() > 2}
        self._pruned = {path: p == 0 for path, p in kernels.items() if bool((p == 0).any())}
        return model

    def after_backward(self, model: nn.Module) -> None:
        """Pruned weights get no gradient."""
        for parameter, pruned in self._held(model):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(pruned, 0.0)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Pruned weights are 0."""
        for parameter, pruned in self._held(model):
            parameter.masked_fill_(pruned, 0.0)

    def detach(self, model: nn.Module) -> Mapping[str, Any]:
        """Returns weight's path → number of weights that are held at 0."""
        return {path: int(pruned.sum()) for path, pruned in self._pruned.items()}

    def filter_settings(self) -> FilterSettings:
        """Returns the numbers of the particle filter."""
        kappa = 1.0 if self.literal else self.kappa
        return FilterSettings(self.particles, self.steps, self.hold, kappa, self.mutation, self.crossover, self.guided)

    def check(self) -> None:
        """Raises MethodError where a setting is out of its range; names all of them."""
        problems = [
            f"{name}={getattr(self, name)} is not in (0, 1]"
            for name in ("kernel_density", "strided_part")
            if not 0 < getattr(self, name) <= 1
        ]
        problems += [
            f"{name}={getattr(self, name)} is not in [0, 1]"
            for name in ("mutation", "crossover", "guided", "max_drop")
            if not 0 <= getattr(self, name) <= 1
        ]
        problems += [
            f"{name}={getattr(self, name)} is below {least}"
            for name, least in (
                *(("particles", 2), ("steps", 1), ("hold", 0)),
                *(("images", 1), ("layer_epochs", 0), ("stride", 1)),
            )
            if getattr(self, name) < least
        ]
        if self.kappa <= 0:
            problems.append(f"kappa={self.kappa} is not above 0")
        for name, allowed in (("scope", _SCOPES), ("sharing", _SHARING)):
            if getattr(self, name) not in allowed:
                problems.append(f"{name}={getattr(self, name)!r}; choose from: {', '.join(allowed)}")
        if problems:
            raise MethodError(f"structured: {'; '.join(problems)}")

    def _held(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """The parameters with pruned weights, and which those are."""
        if not self._pruned:
            return []
        parameters = dict(model.named_parameters())
        return [(parameters[path], pruned.to(parameters[path].device)) for path, pruned in self._pruned.items()]
