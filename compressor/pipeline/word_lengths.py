"""How many bits each weight of a network gets: as asked for, or the fewest within an accuracy or a size limit.

    a fixed number      every kernel and linear weight gets it
    accuracy limit      the last network on the lowering path, 8 .. 2 bits, whose validation accuracy holds
    size limit          the first one on the path of 8 and 4 bits, the widths that a file stores, that is small enough

FBS's predictors always get `PREDICTOR_BITS`: they are few, and a wrong choice of channels costs more than bits save.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compressor.data import Dataset
from compressor.errors import BudgetError
from compressor.methods.fbs import layers
from compressor.quantise import (
    MAX_BITS,
    MIN_BITS,
    FixedPoint,
    Scheme,
    Sensitivity,
    apply,
    kernel_names,
    last_that_holds,
    lowering_path,
    quantise_all,
    stored_bits,
    sweep,
)
from compressor.train import Evaluation, Progress, evaluate

__all__ = ["PREDICTOR_BITS", "Subject", "file_bytes", "for_accuracy", "for_size", "measure", "sensitivities"]

PREDICTOR_BITS = 8
_FILE_WIDTHS = (8, 4)
_ALL_WIDTHS = tuple(range(MAX_BITS, MIN_BITS - 1, -1))


@dataclass(frozen=True)
class Subject:
    """A float network on its way to fixed point.

    Attributes:
        model: In evaluation mode; a measurement changes it and puts it back.
        scheme: How steps are chosen.
        kernels: Names of convolution kernels and linear weights.
        predictors: Names of FBS saliency weights (C, K).
    """

    model: nn.Module
    scheme: Scheme
    kernels: tuple[str, ...]
    predictors: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, scheme: Scheme) -> "Subject":
        """Returns the subject that a network is."""
        predictors = tuple(f"{name}.saliency_weight" for name in layers(model))
        return cls(model, scheme, tuple(kernel_names(model)), predictors)

    def fixed(self, bits: Mapping[str, int]) -> dict[str, FixedPoint]:
        """The tensors of `bits` in fixed point."""
        axes = dict.fromkeys(self.predictors, 1)
        return quantise_all(dict(self.model.named_parameters()), bits, self.scheme, axes=axes)

    def with_predictors(self, bits: Mapping[str, int]) -> dict[str, int]:
        """`bits` of kernels, and those of the predictors beside them."""
        return {**bits, **dict.fromkeys(self.predictors, PREDICTOR_BITS)}


def measure(subject: Subject, bits: Mapping[str, int], dataset: Dataset) -> Evaluation:
    """Returns how good the network is on the validation split with these tensors, and no others, in fixed point."""
    before = {name: subject.model.get_parameter(name).detach().clone() for name in bits}
    try:
        apply(subject.model, subject.fixed(bits))
        return evaluate(subject.model, dataset, "val")
    finally:
        with torch.no_grad():
            for name, value in before.items():
                subject.model.get_parameter(name).copy_(value)


def sensitivities(
    subject: Subject, options: Sequence[int], dataset: Dataset, progress: Progress
) -> tuple[Sensitivity, ...]:
    """Returns every kernel's sensitivity, one alone in fixed point at a time, and says each."""

    def one(bits: Mapping[str, int]) -> tuple[float, float]:
        found = measure(subject, bits, dataset)
        ((name, number),) = bits.items()
        progress.line(f"{name} alone in {number} bits: val accuracy {found.top1:.2%}, loss {found.loss:.4f}")
        return found.loss, found.top1

    return tuple(sweep(subject.kernels, options, one))


def for_accuracy(
    subject: Subject, floor: float, dataset: Dataset, progress: Progress
) -> tuple[dict[str, int], tuple[Sensitivity, ...]]:
    """Returns the shortest words whose validation accuracy is at least `floor`, and the sensitivities.

    Raises:
        BudgetError: It is not even reached with 8 bits everywhere.
    """
    table = sensitivities(subject, _ALL_WIDTHS, dataset, progress)
    path = lowering_path(_sizes(subject), table, _ALL_WIDTHS, width=lambda bits: bits)
    seen: dict[int, float] = {}

    def holds(index: int) -> bool:
        seen[index] = measure(subject, subject.with_predictors(path[index]), dataset).top1
        words = sorted(set(path[index].values()))
        progress.line(f"all in {words[0]} to {words[-1]} bits: val accuracy {seen[index]:.2%}")
        return seen[index] >= floor

    chosen = last_that_holds(len(path), holds)
    if chosen is None:
        raise BudgetError(
            f"val accuracy {floor:.2%} is not kept: with {MAX_BITS} bits everywhere it is {seen[0]:.2%}; "
            "allow a larger --max-drop, or use --per-channel"
        )
    return path[chosen], table


def for_size(
    subject: Subject, max_bytes: int, dataset: Dataset, progress: Progress
) -> tuple[dict[str, int], tuple[Sensitivity, ...]]:
    """Returns 8 or 4 bits for each kernel so that `file_bytes` is at most `max_bytes`, and the sensitivities.

    Raises:
        BudgetError: 4 bits everywhere are too many.
    """
    least = file_bytes(subject, dict.fromkeys(subject.kernels, _FILE_WIDTHS[-1]))
    if least > max_bytes:
        raise BudgetError(
            f"{max_bytes} bytes are too few: with {_FILE_WIDTHS[-1]} bits everywhere the weights take {least}; "
            "allow that many, or remove channels first"
        )
    table = sensitivities(subject, _FILE_WIDTHS, dataset, progress)
    path = lowering_path(_sizes(subject), table, _FILE_WIDTHS, width=stored_bits)
    return next(bits for bits in path if file_bytes(subject, bits) <= max_bytes), table


def file_bytes(subject: Subject, bits: Mapping[str, int]) -> int:
    """Returns the bytes of a file's numbers: words at the width it stores, everything else as float32.

    A file has its nodes and names besides; it folds batch norms away, so it stays below this by their statistics.
    """
    state = {name: value for name, value in subject.model.state_dict().items() if value.is_floating_point()}
    fixed = subject.with_predictors(bits)
    steps = sum(int(state[name].shape[0]) if subject.scheme.per_channel else 1 for name in fixed)
    floats = sum(int(value.numel()) for name, value in state.items() if name not in fixed)
    words = sum((int(state[name].numel()) * stored_bits(number) + 7) // 8 for name, number in fixed.items())
    return words + 4 * (floats + steps)


def _sizes(subject: Subject) -> dict[str, int]:
    return {name: subject.model.get_parameter(name).numel() for name in subject.kernels}
