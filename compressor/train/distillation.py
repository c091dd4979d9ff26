"""Distillation: a network also learns to answer as its dense teacher does.

    loss = (1 - w) · task loss  +  w · T² · KL( softmax(t / T) ‖ softmax(s / T) )

after Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2: t and s are the logits
of teacher and student; the factor T² keeps the size of the gradients when the temperature changes. Classes lie along
dimension 1; for a dense prediction the divergence is the mean over all places.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compressor.errors import CompressorError

__all__ = ["Teacher", "divergence", "log_probabilities"]

_LEAST = 1e-12  # float32 has a logarithm for it


@dataclass(frozen=True)
class Teacher:
    """Who is imitated, and how much.

    Attributes:
        model: Gives logits of the student's shape; it is only evaluated.
        weight: w, part of the loss that comes from the teacher, 0 to 1.
        temperature: T, above 0; larger looks more at the wrong answers.
        probabilities: Student and teacher give softmax's results; their logarithms do for logits.

    Raises:
        CompressorError: A number is out of range.
    """

    model: nn.Module
    weight: float = 0.7
    temperature: float = 4.0
    probabilities: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise CompressorError(f"a teacher's weight is {self.weight:g}; it lies from 0 to 1")
        if not self.temperature > 0:
            raise CompressorError(f"a teacher's temperature is {self.temperature:g}; it lies above 0")

    def mix(self, loss: torch.Tensor, outputs: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the loss to minimise.

        Args:
            loss: Of the task, a scalar.
            outputs: The student's logits, (N, classes, …).
            inputs: What it saw.

        Raises:
            CompressorError: The teacher answers in another shape.
        """
        with torch.no_grad():
            wanted = self.model(inputs)
        if not isinstance(wanted, torch.Tensor) or wanted.shape != outputs.shape:
            came = tuple(wanted.shape) if isinstance(wanted, torch.Tensor) else f"a {type(wanted).__name__}"
            raise CompressorError(f"the teacher returns {came}, the network {tuple(outputs.shape)}; logits must match")
        if self.probabilities:
            outputs, wanted = log_probabilities(outputs), log_probabilities(wanted)
        return (1 - self.weight) * loss + self.weight * divergence(outputs, wanted, self.temperature)


def divergence(outputs: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns T² · KL(teacher ‖ student), the mean over samples and places, a scalar.

    Args:
        outputs: The student's logits, (N, classes, …).
        wanted: The teacher's, the same shape.
        temperature: T.
    """
    student = F.log_softmax(outputs.float() / temperature, dim=1)
    teacher = F.log_softmax(wanted.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean()


def log_probabilities(outputs: torch.Tensor) -> torch.Tensor:
    """Returns logits out of softmax's results: a softmax of them gives the results again."""
    return outputs.float().clamp_min(_LEAST).log()
