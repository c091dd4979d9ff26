"""How a Tick takes part in the training loop: after its last step it prunes."""

import torch
from torch import Tensor, nn

from compressor.graph.cut import Keep
from compressor.methods.base import ParameterGroup
from compressor.methods.gate_decorator_convert import set_masks
from compressor.pipeline.gate_decorator.run import TickTock
from compressor.pipeline.gate_decorator.width import held_units, narrowed_gates
from compressor.select import Pruned, prune_least

__all__ = ["PruneAtEnd"]


class PruneAtEnd:
    """Takes part in a Tick as the method does; after the last step it prunes, so that the epoch is validated as cut.

    Args:
        run: what the Tick is part of.
        keep: (units,) True where a unit is still there.
        steps: of the Tick.

    Attributes:
        pruned: what is left; None before the last step.
    """

    def __init__(self, run: TickTock, keep: Keep, steps: int) -> None:
        self._run, self._keep, self._left = run, keep, steps
        self._narrow = narrowed_gates(run.gates.gates, held_units(run.graph, keep))
        self.pruned: Pruned | None = None

    def parameters(self, model: nn.Module) -> list[ParameterGroup]:
        """The method's."""
        return self._run.gates.parameters(model)

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The method's."""
        return self._run.gates.penalty(model)

    def after_backward(self, model: nn.Module) -> None:
        """The method's."""
        self._run.gates.after_backward(model)

    def after_step(self, model: nn.Module) -> None:
        """Prunes after the last step."""
        self._left -= 1
        if self._left == 0:
            self.pruned = self._prune(model)
            set_masks(model, self._narrow, self.pruned.keep)

    def _prune(self, model: nn.Module) -> Pruned:
        gates, graph, filters = self._run.gates, self._run.graph, self._run.gates.filters()
        scores = torch.zeros(graph.num_units)
        by_group = gates.scores(model).values
        for group in graph.groups:
            if group.name in by_group:
                scores[group.start : group.start + group.size] = by_group[group.name]
        left = int(filters[torch.from_numpy(self._keep)].sum())
        wanted = max(1, int(gates.prune_fraction * left)) + (gates.threshold == "released")
        return prune_least(graph, self._run.choices, self._keep, scores=scores, filters=filters, num_filters=wanted)
