"""One batch through torch and through one way of running a file: how far apart are they, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto
from torch import Tensor, nn

from exporters.errors import ExportError
from exporters.execution import Array, Runner
from exporters.winners import near_ties, record_winners, winner_outputs

__all__ = ["Comparison", "Opened", "Subject", "compare", "file_outputs", "largest_difference", "torch_outputs"]

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

# A sample over tolerance may differ by so many times what torch's own output moves when its input is one rounding step
# larger. An untrained ResNet-50 with FBS, whose gates square 'large' images up to 1e34: a step moves torch by 1.5e-4 of
# the output, and ONNX Runtime and our kernels are 1.3e-4 away, on other inputs 1e-6.
_STEPS = 4.0
_ONE_STEP = np.float32(1 + 2**-23)


@dataclass(frozen=True)
class Comparison:
    """One batch on one way of running it, against torch.

    Attributes:
        path: `stock` or an instruction set.
        inputs: what the batch is.
        batch: its size.
        compared: samples that `max_error` covers.
        near_ties: samples over tolerance because last winner and first loser of a layer are tied.
        ill_conditioned: samples over tolerance that differ by no more than rounding the input makes of it in torch.
        not_finite: samples for which torch itself gives NaN or infinity.
        max_error: largest absolute difference.
        relative_error: the same over the batch's largest output.
        top1_agreement: fraction of all finite samples with the same largest output.
    """

    path: str
    inputs: str
    batch: int
    compared: int
    near_ties: int
    ill_conditioned: int
    not_finite: int
    max_error: float
    relative_error: float
    top1_agreement: float


@dataclass(frozen=True)
class Subject:
    """What is compared: the network and the file's graph."""

    model: nn.Module
    proto: ModelProto


@dataclass(frozen=True)
class Opened:
    """One way of running the file, open.

    Attributes:
        name: `stock` or an instruction set.
        run: all outputs of the graph.
        run_with_winners: opens a copy of the file that hands out winners too, behind the outputs.
    """

    name: str
    run: Runner
    run_with_winners: Callable[[], Runner]


def compare(
    subject: Subject, way: Opened, *, inputs: tuple[str, Array], expected: Sequence[Floats], tolerance: float
) -> Comparison:
    """Returns the differences for one batch.

    Call it with `subject.model` in evaluation mode, without gradients.

    Args:
        subject: The network and the file.
        way: How the file is run.
        inputs: What the batch is, and the batch (N, ...).
        expected: torch's outputs for it.
        tolerance: As a fraction of the batch's largest output; infinite where any difference is to be told.

    Raises:
        ExportError: the file does not run, or gives outputs of other shapes.
    """
    name, values = inputs
    found = file_outputs(way.name, way.run, inputs, expected)
    pairs = _flat_pairs(expected, found)
    finite = np.all([np.isfinite(a).all(axis=1) for a, _ in pairs], axis=0)
    errors = _distance(pairs)
    scale = max(float(np.abs(a[finite]).max(initial=0.0)) for a, _ in pairs) or 1.0
    tied = np.zeros(len(values), bool)
    over = finite & (errors > tolerance * scale)
    if over.any():
        tied = over & _tied(subject, way, values)
    moved = np.zeros(len(values), bool)
    if (over & ~tied).any():
        moved = over & ~tied & (errors <= _STEPS * _moved(subject, values, expected))
    compared = finite & ~tied & ~moved
    logits, answers = pairs[0][0][finite], pairs[0][1][finite]
    same = np.argmax(logits, axis=1) == np.argmax(answers, axis=1)
    max_error = float(errors[compared].max(initial=0.0))
    return Comparison(
        path=way.name,
        inputs=name,
        batch=len(values),
        compared=int(compared.sum()),
        near_ties=int(tied.sum()),
        ill_conditioned=int(moved.sum()),
        not_finite=int((~finite).sum()),
        max_error=max_error,
        relative_error=max_error / scale,
        top1_agreement=float(same.mean()) if len(same) else 1.0,
    )


def _flat_pairs(expected: Sequence[Floats], found: Sequence[Floats]) -> list[tuple[Floats, Floats]]:
    return [(a.reshape(len(a), -1), b.reshape(len(b), -1)) for a, b in zip(expected, found, strict=True)]


def _distance(pairs: Sequence[tuple[Floats, Floats]]) -> npt.NDArray[np.float64]:
    """(N,), the largest of all outputs' differences."""
    distance: npt.NDArray[np.float64] = np.max([largest_difference(a, b) for a, b in pairs], axis=0)
    return distance


def largest_difference(expected: Floats, found: Floats) -> npt.NDArray[np.float64]:
    """Returns it for each row of (N, ...) outputs as (N,), infinite where the file alone is not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(expected.astype(np.float64) - found.astype(np.float64))
    difference[~np.isfinite(found)] = np.inf
    largest: npt.NDArray[np.float64] = difference.max(axis=1, initial=0.0)
    return largest


def _tied(subject: Subject, way: Opened, values: Array) -> Flags:
    """Which samples may differ because of a near tie: winners in torch against winners on the same path."""
    names = winner_outputs(subject.proto)
    with record_winners(subject.model) as expected:
        torch_outputs(subject.model, values)
    outputs = way.run_with_winners()(values)
    found = dict(zip(names, outputs[len(outputs) - len(names) :], strict=True))
    return near_ties(expected, found, len(values))


def _moved(subject: Subject, values: Array, expected: Sequence[Floats]) -> npt.NDArray[np.float64]:
    """(N,): how far torch's outputs move when float inputs are one rounding step larger.

    0 for whole numbers, and where torch does not give the same twice.
    """
    if values.dtype != np.float32:
        return np.zeros(len(values))

    def distance(inputs: Array) -> npt.NDArray[np.float64]:
        found = torch_outputs(subject.model, inputs)
        return _distance(_flat_pairs(expected, found))

    moved = distance(values * _ONE_STEP)
    return np.where(np.isfinite(moved) & (distance(values) == 0), moved, 0.0)


def torch_outputs(model: nn.Module, values: Array) -> list[Floats]:
    """Returns all outputs of a network for one batch (N, ...), which runs on the network's own device."""
    some = next(iter(model.parameters()), None)
    device = torch.device("cpu") if some is None else some.device
    result = model(torch.from_numpy(values).to(device))
    if isinstance(result, dict):
        result = list(result.values())
    tensors: Sequence[Tensor] = [result] if isinstance(result, Tensor) else result
    return [tensor.detach().cpu().numpy() for tensor in tensors]


def file_outputs(
    way: str, runner: Runner, inputs: tuple[str, Array], expected: Sequence[Floats], *, more: int = 0
) -> list[npt.NDArray[Any]]:
    """Returns the outputs of an open file: those that torch gives, and as many `more` behind them.

    Raises:
        ExportError: it does not run, or gives outputs of other shapes.
    """
    name, values = inputs
    try:
        found = runner(values)
    except Exception as error:  # each runtime raises its own types
        text = " ".join(str(error).split())
        raise ExportError(f"{way} cannot run the file on '{name}', batch {len(values)}: {text}") from error
    shapes = [array.shape for array in expected], [array.shape for array in found[: len(found) - more]]
    if shapes[0] != shapes[1]:
        raise ExportError(f"{way}: torch's outputs have the shapes {shapes[0]}, the file's {shapes[1]}")
    return found
