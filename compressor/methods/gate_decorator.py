"""Gate Decorator: a trainable gate on every filter says how much the loss would change without it.

You, Yan, Ye, Ma, Wang: "Gate Decorator: Global Filter Pruning Method for Accelerating Deep Convolutional Neural
Networks", NeurIPS 2019, arXiv 1909.08174. A gate f multiplies a filter's output; by the Taylor expansion at f,

    |L(f) - L(0)| ~ |f * dL/df|         S_c = sum over mini-batches t of |f_c * dL_t/df_c|

with L_t the mean loss of mini-batch t alone, and the absolute value after the mean over the batch (released code; the
paper's formula sums over samples). With several processes the mini-batch is that of all ranks together: gradients are
averaged first, then comes the absolute value, so one and N processes score alike.

*Tick*: convolutions frozen; gates, shifts and the last linear layer train while scores accumulate, then the least
important filters of the whole network go. *Tock*: everything trains, with l1 * sum |f| in the loss. Units that several
layers make together (residual sums) are scored together and go together. `gate_decorator_layer` has the formulas of
the gates, `gate_decorator_convert` says where they are put; `compressor.pipeline.gate_decorator` is the road.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import ChannelGraph, trace
from compressor.methods.base import Method, ParameterGroup, Scores
from compressor.methods.gate_decorator_convert import Gate, add_gates, find_gates
from compressor.methods.gate_decorator_layer import Filters, GatedBatchNorm

__all__ = ["GateDecorator"]


@dataclass
class GateDecorator(Method):
    """Hyper-parameters of Gate Decorator; the defaults are the released ResNet-56 run's.

    Attributes:
        prune_fraction: part of the remaining filters that a Tick prunes (ResNet-56 0.002, VGG-16 0.005).
        tick_images: training images of a Tick, others each time; 0 is all (released code on CIFAR).
        tick_lr: constant learning rate of a Tick.
        tick_train_shift: shifts train in a Tick too (released code; the paper names gates and last layer only).
        ticks_per_tock: Ticks before the next Tock.
        first_tock: begin with a Tock (released code).
        tock_epochs: of each Tock; 0 leaves Tocks out.
        tock_lr_min: learning rate at a Tock's start and end.
        tock_lr_max: at its middle; a line up and a line down.
        l1: factor of the sum of |f| over all gates in a Tock.
        group_score: how members' scores become a unit's: `sum` (paper), `mean` or `max`.
        min_keep: least part of a group's units that stays, and at least 1.
        momentum: of Ticks and Tocks, not of Nesterov's kind.
        threshold: `exact` prunes the number that `prune_fraction` says, `released` one more, as the code does.
    """

    prune_fraction: float = 0.002
    tick_images: int = 0
    tick_lr: float = 1e-3
    tick_train_shift: bool = True
    ticks_per_tock: int = 10
    first_tock: bool = True
    tock_epochs: int = 10
    tock_lr_min: float = 1e-3
    tock_lr_max: float = 1e-2
    l1: float = 1e-3
    group_score: Literal["sum", "mean", "max"] = "sum"
    min_keep: float = 0.1
    momentum: float = 0.9
    threshold: Literal["exact", "released"] = "exact"

    def __post_init__(self) -> None:
        # No fields: settings stay plain.
        self._graph: ChannelGraph | None = None
        self._all: tuple[Gate, ...] = ()
        self._gates: tuple[Gate, ...] = ()
        self._totals: dict[str, Tensor] = {}
        self._sparse = True

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Where the attached network has its gates; empty before `attach`."""
        return self._all

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Returns a copy with gates; the same function, see `add_gates`.

        Raises:
            MethodError: no layer can carry a gate, or a setting is not allowed.
            GraphError: the network cannot be exported.
        """
        self.check()
        return self.attach_to(model, trace(model, example))

    def attach_to(self, model: nn.Module, graph: ChannelGraph) -> nn.Module:
        """As `attach`, with the channel graph that is there already."""
        self._graph, self._totals = graph, {}
        self._all = self._gates = find_gates(model, graph)
        return add_gates(model, self._all)

    def turn_to(self, gates: tuple[Gate, ...]) -> None:
        """Takes part in the training of a narrower copy from now on, with these gates; forgets all scores."""
        self._gates, self._totals = gates, {}

    def parameters(self, model: nn.Module) -> list[ParameterGroup]:
        """All that train, in one group: weight decay holds for gates and shifts too (released code)."""
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]

    def begin_tick(self, model: nn.Module) -> None:
        """Changes `model`: convolutions and hidden linear layers are frozen. Forgets all scores."""
        self._totals, self._sparse = {}, False
        for path in self._frozen_in_tick(model):
            model.get_parameter(path).requires_grad_(False)

    def begin_tock(self, model: nn.Module) -> None:
        """Changes `model`: everything trains."""
        self._sparse = True
        model.requires_grad_(True)

    def after_backward(self, model: nn.Module) -> None:
        """Adds |f * dL/df| of this mini-batch to the scores; then, in a Tock, the gradient of l1 * sum |f|."""
        for gate in self._gates:
            factor = gate.factor(model)
            if factor.grad is None:
                continue
            score = (factor.detach() * factor.grad).abs_()
            if gate.name in self._totals:
                self._totals[gate.name] += score
            else:
                self._totals[gate.name] = score
            if self._sparse and self.l1:
                factor.grad.add_(factor.detach().sign(), alpha=self.l1)

    def scores(self, model: nn.Module) -> Scores:
        """Returns group → (units,), members' scores joined; 0 where no mini-batch has been seen.

        Raises:
            MethodError: `attach` has not been called.
        """
        graph = self._attached()
        total, count = torch.zeros(graph.num_units), torch.zeros(graph.num_units)
        for gate in (gate for gate in self._gates if gate.member):
            inside = torch.as_tensor(gate.units) >= 0
            units = torch.as_tensor(gate.units)[inside]
            own = self._totals.get(gate.name, torch.zeros(len(gate.units))).float().cpu()[inside]
            if self.group_score == "max":
                total.scatter_reduce_(0, units, own, "amax")
            else:
                total.index_add_(0, units, own)
            count.index_add_(0, units, torch.ones(len(units)))
        if self.group_score == "mean":
            total /= count.clamp_min(1)
        return Scores({g.name: total[g.start : g.start + g.size] for g in graph.groups if g.frozen is None})

    def filters(self) -> Tensor:
        """Returns (units,): how many filters each unit is, over the layers that make it; this is what a Tick counts.

        Raises:
            MethodError: `attach` has not been called.
        """
        graph = self._attached()
        units = np.concatenate([gate.units for gate in self._all if gate.member])
        return torch.bincount(torch.as_tensor(units[units >= 0]), minlength=graph.num_units)

    def check(self) -> None:
        """Raises MethodError where a setting is out of its range; names all of them."""
        problems = [
            f"{name}={value} is not in (0, 1)"
            for name, value in (("prune_fraction", self.prune_fraction),)
            if not 0 < value < 1
        ]
        problems += [
            f"{name}={value} is not in [0, 1)"
            for name, value in (("min_keep", self.min_keep), ("momentum", self.momentum))
            if not 0 <= value < 1
        ]
        below = ("tick_images", "tick_lr", "tock_epochs", "tock_lr_min", "tock_lr_max", "l1")
        problems += [f"{name}={getattr(self, name)} is below 0" for name in below if getattr(self, name) < 0]
        if self.ticks_per_tock < 1:
            problems.append(f"ticks_per_tock={self.ticks_per_tock} is below 1")
        if self.tock_lr_min > self.tock_lr_max:
            problems.append(f"tock_lr_min={self.tock_lr_min} is above tock_lr_max={self.tock_lr_max}")
        for name, allowed in (("group_score", ("max", "mean", "sum")), ("threshold", ("exact", "released"))):
            if getattr(self, name) not in allowed:
                problems.append(f"{name}={getattr(self, name)!r}; choose from: {', '.join(allowed)}")
        if problems:
            raise MethodError(f"gate-decorator: {'; '.join(problems)}")

    def _attached(self) -> ChannelGraph:
        if self._graph is None:
            raise MethodError("gate-decorator has no gates yet; call attach(model, example) first")
        return self._graph

    def _frozen_in_tick(self, model: nn.Module) -> list[str]:
        """Weights and biases of convolutions and of linear layers whose outputs can be cut; shifts where asked for."""
        hidden = {gate.name for gate in self._all}
        paths: list[str] = []
        for name, module in model.named_modules():
            convolution = isinstance(module, nn.modules.conv._ConvNd)
            if convolution or (isinstance(module, Filters) and name in hidden):
                leaves = [leaf for leaf, _ in module.named_parameters()]
                # A weight that is computed, as weight norm does, has parameters of its own.
                frozen = [leaf for leaf in leaves if leaf in ("weight", "bias") or leaf.startswith("parametrizations.")]
                paths += [f"{name}.{leaf}" for leaf in frozen]
            elif isinstance(module, GatedBatchNorm) and not self.tick_train_shift:
                paths.append(f"{name}.bias")
        return paths
