"""Writes a torch network as one ONNX file that has been proved equal to it."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnx import ModelProto

from exporters import opset as compress_opset
from exporters.errors import ExportError
from exporters.fixed_point import FixedWeight
from exporters.image_input import ImageInput
from exporters.int8 import Int8Settings, Steps, quantize_int8, stored_steps
from exporters.int8_fbs import has_fbs_layers, quantize_fbs
from exporters.passes.quantize_weights import quantize_weights
from exporters.sparse_form import LayerForm, check_mode
from exporters.store import SIZE_LIMIT_BYTES, data_path, is_external, move_model, save_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from exporters.targets import Onnx
    from exporters.verify import VerifyReport

__all__ = ["ExportedModel", "export"]


@dataclass(frozen=True)
class ExportedModel:
    """A file that stands under its final name.

    Attributes:
        path: where it lies.
        target: what it is made for.
        opset: version of the standard ops.
        ops: names in use, sorted, `compress.` in front of our own.
        max_difference: largest difference from torch, as a fraction of the batch's largest output; of an int8 file, the
            difference of the float file it was made from.
        near_ties: samples left out of it, see `exporters.verify.Comparison`.
        file_bytes: its size, with the weights that lie beside it.
        notes: what the target has to say, one line each.
        command: what builds an engine of it, where the target has such a command.
        forms: what became of convolutions with zeros in their weights.
    """

    path: Path
    target: str
    opset: int
    ops: tuple[str, ...]
    max_difference: float
    near_ties: int
    file_bytes: int
    notes: tuple[str, ...] = ()
    command: str | None = None
    forms: tuple[LayerForm, ...] = ()


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
    image: ImageInput | None = None,
    int8: Int8Settings | None = None,
    fixed_point: Sequence[FixedWeight] = (),
    sparse: str = "auto",
    external_over_bytes: int = SIZE_LIMIT_BYTES,
) -> ExportedModel:
    """Writes `model` to `path` once the file's outputs agree with torch's.

    The file is checked by ONNX's checker and the target's own lint, and run on several inputs (ordinary, zeros,
    extremes) in stock ONNX Runtime and, where it is built, in our library on the instruction set it would choose here
    (`exporters.verify` takes all of them). An int8 file is made from a float file that passed. The file appears under
    its final name, whole, or not at all. Equal networks give equal bytes.

    Args:
        model: Any network of one input; evaluation mode is used, training flags are put back.
        example: (N, ...) float32 on the model's device; only its shape matters, and N where `batch` does not
            say.
        path: Of the file; its folder must exist.
        batch: Static batch size, or dynamic.
        opset: Version of the standard ops; None takes the target's default.
        target: One of `exporters.targets.names()`.
        metadata: Written as compress.<key>, see `exporters.metadata.KEYS`; version, macs and what the target adds
            are written too.
        tolerance: Largest difference allowed, as a fraction of the batch's largest output.
        image: The file takes uint8 images (N, H, W, C) and preprocesses them itself; not together with `int8`, see
            `exporters.prepend`.
        int8: Calibrated Q/DQ, and FBS layers on bytes (`exporters.int8_fbs`); None keeps float32.
        fixed_point: Weights to store as INT4 or INT8; with `int8` they keep their steps.
        sparse: Which pruned convolutions become a SparseConv, one of `exporters.sparse_form.SPARSE_MODES`; none with
            `int8`, and none for a target of standard ops.
        external_over_bytes: A larger model keeps its weights in `<file>.data` beside it; protobuf allows no more
            than the default.

    Raises:
        ExportError: torch cannot export the network, the target does not take it, or the numbers do not agree; no
            file is left.
        ValueError: batch is not a positive number or "dynamic", or `image` and `int8` are both given.
    """
    # Heavy, and not needed by those who only inspect or run files: a device has no torch.
    from exporters import targets
    from exporters.capture import capture
    from exporters.passes.lower_sparse_conv import LowerSparseConv
    from exporters.rewrite import check, describe, rewrite
    from exporters.verify import verify

    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f'batch={batch!r}; allowed are 1, 2, ... and "dynamic"')
    if image is not None and int8 is not None:
        raise ValueError("image and int8 do not go together: exporters.prepend puts preprocessing before an int8 file")
    path = Path(path)
    if not path.parent.is_dir():
        raise ExportError(f"{path}: its folder does not exist; make it first")
    kind = targets.get(target)
    version = _checked_opset(opset or kind.default_opset)
    check_mode(sparse)
    if sparse == "always" and (int8 is not None or not kind.own_ops):
        raise ExportError("sparse layers are ops of target onnx in float; leave --sparse always out")
    _check_network(model, example)

    sized = example if batch == "dynamic" else example[:1].expand(batch, *example.shape[1:])
    captured = capture(model, sized, dynamic=batch == "dynamic", onnx_opset=version)
    lower_sparse_conv = LowerSparseConv(sparse if sparse == "off" or (kind.own_ops and int8 is None) else "never")
    passes = kind.passes(
        one_sample=batch == 1 and int8 is None,
        whole_weights=bool(fixed_point),
        int8=int8 is not None,
        lower_sparse_conv=lower_sparse_conv,
    )
    written = rewrite(captured, passes, image=image)
    about = {**(metadata or {}), "target": target, "input": None if image is None else image.to_json()}
    forms = tuple(lower_sparse_conv.forms)
    if forms:
        about["sparse"] = {form.layer: form.to_json() for form in forms}
    steps: Steps = {}
    if fixed_point:
        stored = quantize_weights(written, fixed_point)
        about["fixed_point"] = {weight.name: weight.to_json() for weight in fixed_point}
        if int8 is None:
            written = stored
        else:
            steps = stored_steps(stored)
    describe(written, about, path, target=kind)
    notes: tuple[str, ...] = ()
    check(written, kind, limit_bytes=external_over_bytes)

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        try:
            save_model(written, partial, limit_bytes=external_over_bytes)
            report = verify(model, partial, batches=(1, 3), tolerance=tolerance, every_isa=False)
            if not report.passed:
                raise ExportError(f"{path} was not written: {_why(report)}")
            if int8 is not None:
                written, notes = _quantized(written, about, path, int8=int8, steps=steps, target=kind)
                check(written, kind, limit_bytes=external_over_bytes)
                save_model(written, partial, limit_bytes=external_over_bytes)
        except ExportError as error:
            raise ExportError(str(error).replace(str(partial), str(path))) from error
        move_model(partial, path)
    files = [path, data_path(path)] if is_external(written, external_over_bytes) else [path]
    return ExportedModel(
        path=path,
        target=target,
        opset=version,
        ops=tuple(sorted({f"{node.domain}.{node.op_type}".removeprefix(".") for node in written.graph.node})),
        max_difference=report.relative_error,
        near_ties=report.near_ties,
        file_bytes=sum(file.stat().st_size for file in files),
        notes=(*notes, *kind.notes(written, int8=int8 is not None), *(form.summary() for form in forms)),
        command=next((entry.value for entry in written.metadata_props if entry.key == "compress.trtexec"), None),
        forms=forms,
    )


def _quantized(
    model: ModelProto,
    about: Mapping[str, object],
    path: Path,
    *,
    int8: Int8Settings,
    steps: Steps,
    target: "type[Onnx]",
) -> tuple[ModelProto, tuple[str, ...]]:
    """The int8 form of a finished float model, and what to say of it."""
    from exporters.rewrite import describe  # heavy, see export

    macs = next((int(entry.value) for entry in model.metadata_props if entry.key == "compress.macs"), None)
    notes: tuple[str, ...] = ()
    if has_fbs_layers(model):
        result, notes = quantize_fbs(model, int8, steps=steps)
    else:
        result = quantize_int8(model, int8, symmetric=target.symmetric, steps=steps)
    calibration = {"calibration": int8.calibration, "images": len(int8.images)}
    describe(result, {**about, "int8": calibration}, path, target=target, macs=macs)
    return result, notes


def _checked_opset(version: int) -> int:
    if not compress_opset.MIN_ONNX_OPSET <= version <= compress_opset.MAX_ONNX_OPSET:
        raise ExportError(
            f"opset {version} is not supported; choose {compress_opset.MIN_ONNX_OPSET} to "
            f"{compress_opset.MAX_ONNX_OPSET}"
        )
    return version


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
