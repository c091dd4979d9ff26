"""The network that a fine-tuning imitates: a checkpoint named on the command line, or one given in Python.

Images without labels have nothing but such a network to be learned from: its answers are the targets, the loss is the
divergence from them, and the metric is the part of the images with the same largest answer.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor import checkpoint
from compressor.data import Dataset, Loss, Task, accuracy
from compressor.errors import CompressorError
from compressor.graph.pairs import evaluating
from compressor.onnx_in import all_steps, program_from_json
from compressor.train import Teacher
from compressor.train.distillation import divergence, log_probabilities

__all__ = ["AGREEMENT", "Distillation", "gives_probabilities", "imitating", "load_teacher", "on_probabilities"]

AGREEMENT = "agreement"
"""Name of the metric where a network is held against another one instead of labels."""

_ROUNDING = 1e-3  # of a sum of probabilities, in half precision too


@dataclass(frozen=True)
class Distillation:
    """What the user asks of distillation.

    Attributes:
        teacher: A checkpoint's path, or the network itself; usually the dense one.
        weight: Part of the loss that comes from the teacher, 0 to 1.
        temperature: Of the softmax on both sides, above 0.
    """

    teacher: Path | nn.Module
    weight: float = Teacher.weight
    temperature: float = Teacher.temperature

    def to_json(self) -> dict[str, Any]:  # JSON values
        """Returns plain values under the attributes' names."""
        name = str(self.teacher) if isinstance(self.teacher, Path) else type(self.teacher).__name__
        return {"teacher": name, "weight": self.weight, "temperature": self.temperature}


def load_teacher(wanted: Distillation | None, student: checkpoint.CompressedCheckpoint) -> Teacher | None:
    """Returns the teacher, rebuilt; None where none is wanted.

    Raises:
        CompressorError: It is not usable, sees other images than the student, knows other classes or held out
            other validation images; or a number is out of range.
    """
    if wanted is None:
        return None
    one_only = "and the network to train only one ends in a softmax; both must, or none"
    if isinstance(wanted.teacher, nn.Module):
        size = student.preprocessing.size
        probabilities = _adds_up_to_one(wanted.teacher, size)
        if _adds_up_to_one(checkpoint.rebuild(student), size) != probabilities:
            raise CompressorError(f"of the {type(wanted.teacher).__name__} to imitate {one_only}")
        return Teacher(wanted.teacher, wanted.weight, wanted.temperature, probabilities)
    saved = checkpoint.load(wanted.teacher)
    # What the teacher has learned from, the student learns through it: no image of its validation split.
    seeds = [saved.record.get("split_seed"), student.record.get("split_seed")]
    if None not in seeds and seeds[0] != seeds[1]:
        raise CompressorError(
            f"{wanted.teacher} held out other validation images (seed {seeds[0]}) than the network to train "
            f"(seed {seeds[1]}); give a teacher trained with the same seed"
        )
    if saved.preprocessing != student.preprocessing:
        raise CompressorError(
            f"{wanted.teacher} takes images prepared as {saved.preprocessing}, the network to train as "
            f"{student.preprocessing}; give a teacher trained on the same data"
        )
    if saved.classes != student.classes:
        raise CompressorError(
            f"{wanted.teacher} knows {len(saved.classes)} classes, the network to train {len(student.classes)}, "
            "or they have other names; give a teacher trained on the same data"
        )
    probabilities = gives_probabilities(student)
    if gives_probabilities(saved) != probabilities:
        raise CompressorError(f"of {wanted.teacher} {one_only}")
    return Teacher(checkpoint.rebuild(saved), wanted.weight, wanted.temperature, probabilities)


def gives_probabilities(saved: checkpoint.CompressedCheckpoint) -> bool:
    """Says whether a network's answers have gone through a softmax already, as many ONNX files have it."""
    if not saved.architecture.startswith(checkpoint.ONNX):
        return False
    *_, last = all_steps(program_from_json(saved.architecture_kwargs["program"]))
    return last.kind == "softmax"


@torch.no_grad()
def _adds_up_to_one(network: nn.Module, size: tuple[int, int, int]) -> bool:
    """Says whether a network given in Python ends in a softmax: its answers are parts of one, whatever the image.

    Its loss is the caller's own and fits its answers; the divergence from a teacher is ours.
    """
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    weight = next(network.parameters(), images)
    with evaluating(network):
        answers = network(images.to(weight.device))
    if not isinstance(answers, Tensor) or answers.dim() < 2 or answers.shape[1] < 2 or bool((answers < 0).any()):
        return False
    total = answers.double().sum(1)
    return torch.allclose(total, torch.ones_like(total), atol=_ROUNDING)


def on_probabilities(dataset: Dataset) -> Dataset:
    """Returns the data set for a network that ends in a softmax: the loss takes the logarithm, which undoes it."""
    return replace(dataset, task=replace(dataset.task, loss=partial(_loss_of_logs, dataset.task.loss)))


def _loss_of_logs(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    return loss(log_probabilities(outputs), targets)


def imitating(dataset: Dataset, teacher: Teacher) -> Dataset:
    """Returns the data set with the teacher's answers as its labels, what labels there are being left aside.

    Loss: T² · KL(teacher ‖ network), see `compressor.train.distillation`. Metric: top-1 agreement, 0 to 1.

    Args:
        dataset: Its images count.
        teacher: Answers about every image as the network to train gets it, augmentation included; its weight does not
            matter, as there is no other loss.
    """
    task = Task(partial(divergence, temperature=teacher.temperature), _agreement, AGREEMENT)
    answers = partial(_answers, teacher.model.eval().requires_grad_(False), probabilities=teacher.probabilities)
    return replace(dataset, task=task, answers=answers)


def _agreement(outputs: Tensor, wanted: Tensor) -> Tensor:
    return accuracy(outputs, wanted.argmax(1))


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor, *, probabilities: bool) -> Tensor:
    answers: Tensor = model.to(images.device)(images)
    return log_probabilities(answers) if probabilities else answers
