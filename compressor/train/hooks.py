"""What the training loop asks of a pruning method."""

from typing import Any, Protocol

import torch
from torch import nn

__all__ = ["TrainingMethod"]


class TrainingMethod(Protocol):
    """The part of a method that takes part in training; `compressor.methods.Method` fits it."""

    def parameters(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Returns torch.optim groups; None leaves the choice to the loop.

        A group may bring its own `lr` (its peak, the schedule applies) and `weight_decay`.
        """

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """Returns what is added to the loss of this step, a scalar; None is nothing."""

    def after_backward(self, model: nn.Module) -> None:
        """Called when the gradients are there, before they are clipped and used."""

    def after_step(self, model: nn.Module) -> None:
        """Called when the weights have been updated."""
