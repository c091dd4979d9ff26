"""Holds an ONNX file against the torch network it came from, on every way of running it here."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto
from torch import nn

from exporters.capture import evaluating
from exporters.comparison import Comparison, Opened, Subject, compare, torch_outputs
from exporters.errors import ExportError
from exporters.execution import Array, ExecutionPath, Runner, execution_paths
from exporters.image_input import ImageInput, torch_image_input
from exporters.load import load_onnx
from exporters.metadata import read_metadata
from exporters.store import save_model
from exporters.stress import ZEROS, stress_images, stress_inputs
from exporters.typical import TYPICAL_TOLERANCE, Typical, is_sound, typical
from exporters.winners import winner_outputs, with_winner_outputs

__all__ = ["INT8_TOLERANCE", "TOLERANCE", "VerifyReport", "verify"]

TOLERANCE = 1e-4
"""Largest difference allowed, as a fraction of the batch's largest output: float32 sums in another order."""

INT8_TOLERANCE = 0.25
"""The same for int8 files, on real inputs: rounding to 8 bits in every layer. What counts there is accuracy."""


@dataclass(frozen=True)
class VerifyReport:
    """All comparisons of one file.

    `passed` if none is over tolerance, and on each path at least one sample that is not all zeros was compared. Of an
    int8 file with FBS layers `typical` decides instead, by the same tolerance, see `exporters.typical`; it is empty for
    all others.
    """

    file: str
    tolerance: float
    paths: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    typical: tuple[Typical, ...]
    max_error: float
    relative_error: float
    top1_agreement: float
    near_ties: int
    ill_conditioned: int
    passed: bool

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return dataclasses.asdict(self)


def verify(
    model: nn.Module,
    path: str | Path,
    inputs: Mapping[str, Array] | None = None,
    *,
    batches: Sequence[int] = (1, 8),
    tolerance: float | None = None,
    every_isa: bool = True,
) -> VerifyReport:
    """Returns how far the file is from torch, on stock ONNX Runtime and on each instruction set.

    Args:
        model: The network; it is run in evaluation mode on its own device, its flags are put back. Where the file
            takes uint8 images, its preprocessing (from the file's metadata) goes before the network.
        path: The ONNX file, with one input.
        inputs: What it is -> float32 (N, ...), normalised as the network wants it, or uint8 (N, H, W, C) where the
            file takes images; None: `stress_inputs` or `stress_images`.
        batches: Sizes to run for a dynamic batch; a static one fixes its own. Inputs are cut into these sizes.
        tolerance: As a fraction of the batch's largest output; None takes `TOLERANCE`, and for int8 files
            `INT8_TOLERANCE`, with FBS layers `TYPICAL_TOLERANCE`.
        every_isa: Run the native library on all instruction sets; otherwise on the one it would choose.

    Raises:
        ExportError: the file cannot be read or run, or its input does not fit.
    """
    proto = load_onnx(path)
    static, shape = _input_shape(proto, path)
    about = read_metadata(proto)
    by_typical = "int8" in about and bool(winner_outputs(proto))
    if tolerance is None:
        tolerance = (TYPICAL_TOLERANCE if by_typical else INT8_TOLERANCE) if "int8" in about else TOLERANCE
    ops = [f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in proto.graph.node]
    ways = execution_paths(ops)
    if not every_isa:
        ways = ways[:2]  # stock and, as they come best first, the native library
    subject = Subject(model, proto)
    comparisons, judged, known = [], [], dict[bytes, Typical]()
    with tempfile.TemporaryDirectory() as folder, evaluating(model), torch.no_grad(), _front(model, about):
        with_winners = Path(folder) / "winners.onnx"
        save_model(with_winner_outputs(proto), with_winners)
        given = [_batches(proto, shape, inputs, size) for size in ([static] if static else batches)]
        expected = [[torch_outputs(model, images) for _, images in batches_of_size] for batches_of_size in given]
        for way in ways:
            opened = Opened(
                way.name, _open(way, Path(path)), functools.cache(functools.partial(way.open, with_winners))
            )
            for batches_of_size, answers in zip(given, expected, strict=True):
                allowed = float("inf") if by_typical else tolerance
                comparisons += [
                    compare(subject, opened, inputs=batch, expected=answer, tolerance=allowed)
                    for batch, answer in zip(batches_of_size, answers, strict=True)
                ]
                if by_typical:
                    judged.append(typical(subject, opened, batches_of_size, answers, known))
    return _summary(str(path), tolerance, ways, comparisons, judged)


def _batches(
    proto: ModelProto, shape: tuple[int, ...], inputs: Mapping[str, Array] | None, size: int
) -> list[tuple[str, Array]]:
    """What each batch is, and the batch."""
    if inputs is not None:
        return list(_cut(inputs, size).items())
    return list((stress_images(shape, size) if _takes_images(proto) else stress_inputs(shape, size)).items())


@contextlib.contextmanager
def _front(model: nn.Module, about: Mapping[str, object]) -> Iterator[None]:
    """Inside, `model` preprocesses uint8 images itself, if the file does; its modules keep their names."""
    values = about.get("input")
    if not isinstance(values, dict):
        yield
        return
    image = ImageInput.from_json(values)
    handle = model.register_forward_pre_hook(lambda _, inputs: (torch_image_input(inputs[0], image), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _takes_images(proto: ModelProto) -> bool:
    return bool(proto.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8)


def _input_shape(proto: ModelProto, path: str | Path) -> tuple[int, tuple[int, ...]]:
    """Static batch size or 0, and the shape of one sample."""
    held = {tensor.name for tensor in proto.graph.initializer}
    real = [value for value in proto.graph.input if value.name not in held]
    dims = [dim.dim_value for dim in real[0].type.tensor_type.shape.dim] if len(real) == 1 else []
    if not dims or not all(dims[1:]):
        names = ", ".join(value.name for value in real)
        raise ExportError(f"{path}: needs one input of a shape fixed but for the batch; its inputs are: {names}")
    return dims[0], tuple(dims[1:])


def _cut(inputs: Mapping[str, Array], size: int) -> dict[str, Array]:
    """Whole batches of `size` from each entry; a rest that does not fill one is left out."""
    cut: dict[str, Array] = {}
    for name, values in inputs.items():
        for start in range(0, len(values) - size + 1, size):
            label = name if len(values) == size else f"{name} {start}"
            cut[label] = np.ascontiguousarray(values[start : start + size])
    if not cut:
        most = max((len(values) for values in inputs.values()), default=0)
        raise ExportError(f"verify was given at most {most} samples, the file takes {size} at a time; give more")
    return cut


def _open(way: ExecutionPath, path: Path) -> Runner:
    try:
        return way.open(path)
    except Exception as error:  # each runtime raises its own types
        raise ExportError(f"{path}: {way.name} cannot load the file: {' '.join(str(error).split())}") from error


def _summary(
    file: str,
    tolerance: float,
    ways: Sequence[ExecutionPath],
    comparisons: Sequence[Comparison],
    judged: Sequence[Typical],
) -> VerifyReport:
    telling = [c for c in comparisons if c.inputs != ZEROS]
    compared = {way.name: sum(c.compared for c in telling if c.path == way.name) for way in ways}
    finite = [c.batch - c.not_finite for c in comparisons]
    agreed = sum(c.top1_agreement * samples for c, samples in zip(comparisons, finite, strict=True))
    worst = max(c.relative_error for c in comparisons)
    sound = all(is_sound(entry, tolerance) for entry in judged) if judged else worst <= tolerance
    return VerifyReport(
        file=file,
        tolerance=tolerance,
        paths=tuple(way.name for way in ways),
        comparisons=tuple(comparisons),
        typical=tuple(judged),
        max_error=max(c.max_error for c in comparisons),
        relative_error=worst,
        top1_agreement=agreed / sum(finite) if sum(finite) else 0.0,
        near_ties=sum(c.near_ties for c in comparisons),
        ill_conditioned=sum(c.ill_conditioned for c in comparisons),
        passed=sound and all(compared.values()),
    )
