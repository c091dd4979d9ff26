"""What a pruning method is: a dataclass of hyper-parameters with hooks that the training loop calls.

Order of the hooks in one run:

    model = method.attach(model, example)
    optimiser over method.parameters(model), or over all parameters where that is None
    for every batch:   loss + method.penalty(model);  backward;  after_backward;  optimiser step;  after_step
    method.scores(model)                    groups that matter least get the smallest scores
    method.detach(model)                    what the method leaves behind, in plain values
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

__all__ = ["Method", "ParameterGroup", "Scores"]

# The form torch's optimisers take: "params" and any of their options.
ParameterGroup = dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """How much each channel of each group matters: group name -> (channels,), larger is kept."""

    values: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Method:
    """Base of all methods; every hook does nothing. Fields are plain values with defaults."""

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters as plain values; `type(self)(**settings)` gives an equal method."""
        return asdict(self)

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Returns the network to train: a changed copy, or `model` itself where the method changes nothing.

        Args:
            model: any network.
            example: (N, C, H, W), an input it takes.
        """
        return model

    def parameters(self, model: nn.Module) -> list[ParameterGroup] | None:
        """Parameter groups for the optimiser; None leaves the choice to the loop."""
        return None

    def training_epochs(self) -> int:
        """Epochs that the network trains with these hooks before `scores` is asked; 0 asks it at once."""
        return 0

    def penalty(self, model: nn.Module) -> Tensor | None:
        """What the last forward pass adds to the loss, a scalar."""
        return None

    def after_backward(self, model: nn.Module) -> None:
        """Called with fresh gradients, before the optimiser's step."""

    def after_step(self, model: nn.Module) -> None:
        """Called after the optimiser's step."""

    def scores(self, model: nn.Module) -> Scores:
        """What `select` ranks; empty for a method that removes nothing for good."""
        return Scores()

    def detach(self, model: nn.Module) -> Mapping[str, Any]:
        """Plain description of what the method leaves in the network, by module name."""
        return {}
