"""Writes a torch network as one ONNX file that has been proved equal to it."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx
from onnx import ModelProto

from exporters import opset as compress_opset
from exporters.errors import ExportError
from exporters.functions import attach_functions
from exporters.inspect import inspect_model
from exporters.load import check_finite, check_ops
from exporters.metadata import package_version, write_metadata

if TYPE_CHECKING:
    from torch import Tensor, nn

    from exporters.verify import VerifyReport

__all__ = ["ExportedModel", "export"]

_SIZE_LIMIT = 2**31 - 1  # protobuf


@dataclass(frozen=True)
class ExportedModel:
    """A file that stands under its final name.

    Attributes:
        path: where it lies.
        target: what it is made for.
        opset: version of the standard ops.
        ops: names in use, sorted, `compress.` in front of our own.
        max_difference: largest difference from torch, as a fraction of the batch's largest output.
        near_ties: samples left out of it, see `exporters.verify.Comparison`.
        file_bytes: its size.
    """

    path: Path
    target: str
    opset: int
    ops: tuple[str, ...]
    max_difference: float
    near_ties: int
    file_bytes: int


def export(
    model: "nn.Module",
    example: "Tensor",
    path: str | Path,
    *,
    batch: int | Literal["dynamic"] = 1,
    opset: int | None = None,
    target: str = "onnx",
    metadata: Mapping[str, object] | None = None,
    tolerance: float = 1e-4,
) -> ExportedModel:
    """Writes `model` to `path` once the file's outputs agree with torch's.

    The file is checked by ONNX's checker and run on several inputs (ordinary, zeros, extremes) in stock ONNX
    Runtime and, where it is built, in our library on the instruction set it chooses here (`exporters.verify` takes
    all of them). It appears under its final name,
    whole, or not at all. Equal networks give equal bytes.

    Args:
        model: Any network of one input; evaluation mode is used, training flags are put back.
        example: (N, ...) float32 on the model's device; only its shape matters, and N where `batch` does not
            say.
        path: Of the file; its folder must exist.
        batch: Static batch size, or dynamic.
        opset: Version of the standard ops; None takes the target's default.
        target: One of `exporters.targets.names()`.
        metadata: Written as compress.<key>, see `exporters.metadata.KEYS`; version and macs are added.
        tolerance: Largest difference allowed, as a fraction of the batch's largest output.

    Raises:
        ExportError: torch cannot export the network, or the numbers do not agree; no file is left.
        ValueError: batch is not a positive number or "dynamic".
    """
    # Heavy, and not needed by those who only inspect or run files: a device has no torch.
    from exporters import targets
    from exporters.capture import capture
    from exporters.verify import verify

    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f'batch={batch!r}; allowed are 1, 2, ... and "dynamic"')
    path = Path(path)
    if not path.parent.is_dir():
        raise ExportError(f"{path}: its folder does not exist; make it first")
    kind = targets.get(target)
    version = opset or kind.default_opset
    if version < compress_opset.MIN_ONNX_OPSET:
        raise ExportError(f"opset {version} is too old; choose {compress_opset.MIN_ONNX_OPSET} or newer")
    _check_network(model, example)

    sized = example if batch == "dynamic" else example[:1].expand(batch, *example.shape[1:])
    captured = capture(model, sized, dynamic=batch == "dynamic", onnx_opset=version)
    written = _rewrite(captured, kind.passes)
    _describe(written, metadata or {}, path)
    _check(written)

    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(written.SerializeToString(deterministic=True))
        report = verify(model, partial, batches=(1, 3), tolerance=tolerance, every_isa=False)
        if not report.passed:
            raise ExportError(f"{path} was not written: {_why(report)}")
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except ExportError as error:
        raise ExportError(str(error).replace(str(partial), str(path))) from error
    finally:
        partial.unlink(missing_ok=True)
    return ExportedModel(
        path=path,
        target=target,
        opset=version,
        ops=tuple(sorted({f"{node.domain}.{node.op_type}".removeprefix(".") for node in written.graph.node})),
        max_difference=report.relative_error,
        near_ties=report.near_ties,
        file_bytes=path.stat().st_size,
    )


def _why(report: "VerifyReport") -> str:
    """What keeps a report from passing."""
    worst = max(report.comparisons, key=lambda comparison: comparison.relative_error)
    if worst.relative_error <= report.tolerance:
        return "torch's own outputs are not finite, or tied throughout, on every input tried; train the network first"
    return (
        f"on {worst.path} with inputs '{worst.inputs}' the file differs from torch by {worst.relative_error:.2e} of "
        f"the largest output ({worst.compared} of {worst.batch} samples compared); allowed is {report.tolerance:.0e}"
    )


def _check_network(model: "nn.Module", example: "Tensor") -> None:
    """Everything wrong with weights and example, in one message."""
    import torch  # heavy, see export

    problems = []
    if example.dtype != torch.float32 or example.dim() < 2 or len(example) < 1:
        problems.append(f"the example is {example.dtype} of shape {tuple(example.shape)}; give float32 (N, ...)")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    other = sorted(
        name for name, value in tensors.items() if value.is_floating_point() and value.dtype != torch.float32
    )
    if other:
        problems.append(f"not float32: {', '.join(other[:5])}; call model.float()")
    broken = sorted(name for name, value in tensors.items() if not torch.isfinite(value).all())
    if broken:
        problems.append(f"weights with NaN or infinity: {', '.join(broken[:5])}; train or load them again")
    if problems:
        raise ExportError("the network cannot be exported: " + "; ".join(problems))


def _rewrite(captured: ModelProto, passes: "tuple[object, ...]") -> ModelProto:
    """The captured graph after the target's passes, with local functions for the ops of our domain."""
    import onnx_graphsurgeon as gs  # with torch's exporter, part of the training install

    graph = gs.import_onnx(captured)
    for rewrite in passes:
        assert callable(rewrite)
        rewrite(graph)
    graph.name = "main"
    result: ModelProto = gs.export_onnx(graph, do_type_check=False)
    versions = [entry for entry in result.opset_import if entry.domain != compress_opset.TORCH_DOMAIN]
    used = {node.domain for node in result.graph.node} | {""}
    del result.opset_import[:]
    result.opset_import.extend(entry for entry in versions if entry.domain in used)
    result.ir_version = compress_opset.IR_VERSION
    return attach_functions(result)


def _describe(model: ModelProto, metadata: Mapping[str, object], path: Path) -> None:
    model.producer_name = "compressor"
    model.producer_version = package_version()
    given = dict(metadata)
    write_metadata(model, given | {"version": package_version(), "macs": inspect_model(model, path).macs})


def _check(model: ModelProto) -> None:
    if model.ByteSize() > _SIZE_LIMIT:
        raise ExportError(f"the model takes {model.ByteSize()} bytes; one ONNX file holds at most {_SIZE_LIMIT}")
    check_ops(model, "the exported graph")
    check_finite(model, "the exported graph")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX's checker refuses the exported graph: {' '.join(str(error).split())}") from error


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
