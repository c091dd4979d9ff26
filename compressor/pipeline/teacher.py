"""The network that a fine-tuning imitates: a checkpoint named on the command line, or one given in Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from compressor import checkpoint
from compressor.errors import CompressorError
from compressor.train import Teacher

__all__ = ["Distillation", "load_teacher"]


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
    if isinstance(wanted.teacher, nn.Module):
        return Teacher(wanted.teacher, wanted.weight, wanted.temperature)
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
    return Teacher(checkpoint.rebuild(saved), wanted.weight, wanted.temperature)
