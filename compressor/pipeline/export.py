"""The road of `compress export`: a checkpoint (or an untrained architecture) in, one ONNX file out."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import exporters
from compressor import methods
from compressor.costs.macs import count_macs
from compressor.errors import CompressorError, MethodError
from compressor.methods.fbs import FBS, layers, set_density
from compressor.pipeline.prune import prune
from compressor.pipeline.source import Source, dense_counterpart, open_source
from compressor.pipeline.speedup import measure_speedup, require
from compressor.pipeline.steps import alignment_step
from compressor.pipeline.train import check_output
from compressor.train import Progress

__all__ = ["Exported", "export_network"]

# Fitting the predictors of a dense network at export: one epoch at each density on the way down and as many at
# the end. Enough to be usable, less than `compress prune` gives; said so wherever it happens.
CALIBRATION_EPOCHS_AT_END = 3


@dataclass(frozen=True)
class Exported:
    """A written file and what was noticed on the way.

    Attributes:
        file: Path, target, opset, ops used, largest difference from torch, bytes.
        notes: One line each, for people.
    """

    file: exporters.ExportedModel
    notes: tuple[str, ...]


def export_network(
    name: str,
    *,
    output: Path,
    method: str | None = None,
    density: float | None = None,
    data: str | None = None,
    target: str = "onnx",
    batch: int | Literal["dynamic"] = 1,
    untrained: bool = False,
    opset: int | None = None,
    measure: bool = False,
    require_speedup: float | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Writes an ONNX file after it has been compared with torch on every way of running it here.

    1. A checkpoint that FBS trained: exported at its density, or at `density` with a note.
    2. A dense network without `method`: exported as it is, batch norm folded.
    3. A dense checkpoint with `method` fbs and `data`: predictors are fitted first, see CALIBRATION_EPOCHS_AT_END.
    4. An untrained architecture: FBS attached with start values; the file's metadata says untrained.

    Args:
        name: A checkpoint's path; with `untrained`, an architecture.
        output: The file to write; whole or not at all.
        method: `fbs` or None.
        density: Part of each layer's channels that is computed, in (0, 1].
        data: What `compressor.data.load` takes; used in case 3 only.
        target: A name of `exporters.targets.names()`.
        batch: Samples per run, or `dynamic`.
        untrained: `name` is an architecture.
        opset: Of the standard ops; None takes the target's.
        measure: Time the file against the dense network on this machine.
        require_speedup: Least measured speed against dense; below it no file is written.
        progress: Where to say how a fitting goes.

    Raises:
        CompressorError: The arguments do not go together, or the checkpoint is not usable.
        ExportError: The network cannot be exported, or the file's numbers differ from torch's.
    """
    check_output(output, source=None if untrained else name)
    if density is not None and not 0.0 < density <= 1.0:
        raise MethodError(f"density {density} is not in (0, 1]; 0.5 computes half of each layer's channels")
    if method is not None and method not in methods.names():
        methods.get(method)  # says what is allowed
    source = open_source(name, untrained=untrained)
    wanted = method or source.method
    if wanted is None and density is not None:
        raise CompressorError(f"--density needs a method: {name} is dense; add --method fbs")
    if wanted not in (None, "fbs"):
        raise MethodError(f"method {wanted} leaves a plain network: prune first, then export without --method")
    if wanted is None or source.method is not None:
        source, notes = _at_density(source, density)
    elif source.saved is None:
        source, notes = _attach_untrained(source, density)
    else:
        source, notes = _fit(source, data, density, progress)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        # The final name is taken only once the speed is known to do.
        file = exporters.export(
            source.model,
            source.example(),
            Path(folder) / output.name,
            batch=batch,
            target=target,
            opset=opset,
            metadata=_metadata(source),
        )
        if (measure or require_speedup is not None) and batch in (1, "dynamic"):
            notes = (*notes, *_compare_speed(source, file.path, require_speedup))
        file.path.replace(output)
    return Exported(replace(file, path=output), notes)


def _compare_speed(source: Source, file: Path, least: float | None) -> tuple[str, ...]:
    """What the file gains over the dense network of the same architecture; nothing for a dense network.

    Raises:
        BudgetError: It gains less than `least`.
    """
    dense = dense_counterpart(source)
    if dense is None:
        return ()
    speedup = measure_speedup(dense, file, source.example())
    if least is not None:
        example = source.example()
        cost, dense_macs = count_macs(source.model, example), count_macs(dense, example).macs
        require(speedup, least, cost, dense_macs=dense_macs, step=alignment_step("auto"))
    return (speedup.summary(),)


def _at_density(source: Source, density: float | None) -> tuple[Source, tuple[str, ...]]:
    """The network as it was trained, or at another density."""
    saved = source.saved
    if saved is None or density is None or saved.density is None or density == saved.density:
        return source, ()
    set_density(source.model, density)
    note = (
        f"trained at density {saved.density:g}, exported at {density:g}: its accuracy there is not known; "
        "an FBS network serves the density it was trained at"
    )
    return replace(source, saved=replace(saved, density=density, record={})), (note,)


def _attach_untrained(source: Source, density: float | None) -> tuple[Source, tuple[str, ...]]:
    model = FBS(density=_required(density)).attach(source.model, source.example()).eval()
    return replace(source, model=model), ("untrained: for latency studies only",)


def _fit(
    source: Source, data: str | None, density: float | None, progress: Progress | None
) -> tuple[Source, tuple[str, ...]]:
    """Trains FBS for a few epochs; the checkpoint it makes is not kept."""
    if data is None:
        raise CompressorError(
            f"{source.name} is dense: its saliency predictors must be fitted first. Add --data for a short fit, "
            "or train them with 'compress prune --method fbs'; --untrained takes an architecture for latency studies"
        )
    fbs = FBS(density=_required(density), final_epochs=CALIBRATION_EPOCHS_AT_END)
    with TemporaryDirectory() as folder:
        fitted = prune(
            source.name,
            data=data,
            density=fbs.density,
            output=Path(folder) / "fitted.pt",
            method_settings={"final_epochs": fbs.final_epochs},
            progress=progress,
        )
        note = (
            f"predictors fitted in {len(fitted.curve)} epochs: {fitted.summary().partition(': ')[2]}; "
            "'compress prune' with more epochs gives more accuracy"
        )
        return open_source(str(fitted.path)), (note,)


def _required(density: float | None) -> float:
    if density is None:
        raise CompressorError("method fbs needs a density: add --density, for example --density 0.5")
    return density


def _metadata(source: Source) -> dict[str, object]:
    """What the file says about itself besides what the exporter knows."""
    saved = source.saved
    if saved is None:
        densities = [layer.density for layer in layers(source.model).values()]
        return {"trained": False, "method": "fbs" if densities else "none", "density": max(densities, default=None)}
    return {
        "trained": True,
        "method": saved.method or "none",
        "density": saved.density,
        "accuracy": saved.record.get("test_top1"),
        "preprocessing": saved.preprocessing.to_json(),
    }
