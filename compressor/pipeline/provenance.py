"""What an exported file says about how it was made, and what can be read back out of it: plan, recipe, commands."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.checkpoint import ONNX, CompressedCheckpoint
from compressor.data.files import whole_file
from compressor.errors import CompressorError, PlanError
from compressor.methods.fbs import layers
from compressor.pipeline.source import Source
from compressor.pipeline.teacher import AGREEMENT
from exporters.inspect import inspect_onnx

__all__ = ["Provenance", "file_metadata", "read_provenance", "write_plans"]

# Of a checkpoint's record: what one needs to make it again. Curves of the training stay in the checkpoint.
_TRAINING = ("command", "data", "seed", "split_seed", "val_top1", "test_top1")


@dataclass(frozen=True)
class Provenance:
    """What `compress export` wrote into a file about its making.

    Attributes:
        method: Name of the method, `none` for a dense network.
        architecture: {"name": ..., "kwargs": {...}}; None for files of earlier releases and untrained networks.
        plans: Cuts in order, each what `compress prune --plan` takes; empty where nothing was cut.
        settings: The method's hyper-parameters; None where there are none.
        recipe: The recipe of the run; None where there was none.
        command: The command that wrote the file; None from Python.
        training: Command, data, seeds and accuracy of the checkpoint.
    """

    method: str
    architecture: dict[str, Any] | None  # JSON values
    plans: tuple[dict[str, Any], ...]  # JSON values
    settings: dict[str, Any] | None  # JSON values
    recipe: Any  # JSON value
    command: str | None
    training: dict[str, Any] | None  # JSON values


def file_metadata(source: Source, *, command: str | None) -> dict[str, object]:
    """Returns what a file says about itself besides what the exporter knows; None entries are not written.

    Args:
        source: The network that is exported.
        command: What the user typed; None where there was no command line.
    """
    saved = source.saved
    if saved is None:
        densities = [layer.density for layer in layers(source.model).values()]
        method = "fbs" if densities else "none"
        return {"trained": False, "method": method, "density": max(densities, default=None), "command": command}
    record = saved.record
    return {
        "trained": True,
        "method": saved.method or record.get("method") or "none",
        "density": saved.density,
        "accuracy": None if record.get("metric") == AGREEMENT else record.get("test_top1"),
        "preprocessing": saved.preprocessing.to_json(),
        "architecture": _architecture(saved),
        "plan": saved.plan,
        "settings": saved.method_settings if saved.method_settings is not None else record.get("settings"),
        "recipe": record.get("recipe"),
        "command": command,
        "training": {name: record[name] for name in _TRAINING if record.get(name) is not None} or None,
    }


def _architecture(saved: CompressedCheckpoint) -> dict[str, Any] | None:  # JSON values
    """Name and arguments; the steps of a network out of an ONNX file are not repeated in the next one."""
    if not saved.architecture:
        return None
    kwargs = {} if saved.architecture.startswith(ONNX) else saved.architecture_kwargs
    return {"name": saved.architecture, "kwargs": kwargs}


def read_provenance(file: Path) -> Provenance:
    """Returns what an ONNX file says about how it was made.

    Raises:
        ExportError: It cannot be read.
        CompressorError: It was not written by `compress export`.
    """
    metadata = inspect_onnx(file).metadata
    method = metadata.get("method")
    if not isinstance(method, str):
        raise CompressorError(f"{file} does not say how it was made: it was not written by 'compress export'")
    plan = metadata.get("plan")
    command = metadata.get("command")
    return Provenance(
        method=method,
        architecture=_mapping(metadata, "architecture"),
        plans=tuple(plan.get("steps", ())) if isinstance(plan, dict) else (),
        settings=_mapping(metadata, "settings"),
        recipe=metadata.get("recipe"),
        command=command if isinstance(command, str) else None,
        training=_mapping(metadata, "training"),
    )


def write_plans(file: Path, output: Path) -> list[Path]:
    """Writes the plans that made an ONNX file, whole or not at all, and returns where they lie.

    One cut goes to `output`, several to `output` with .1, .2 … before the ending, in the order to replay them.

    Raises:
        ExportError, CompressorError: As `read_provenance`.
        PlanError: Nothing was cut.
    """
    plans = read_provenance(file).plans
    if not plans:
        raise PlanError(f"{file} has no plan: no channels were removed to make it")
    paths = [output]
    if len(plans) > 1:
        paths = [output.with_name(f"{output.stem}.{number}{output.suffix}") for number in range(1, len(plans) + 1)]
    for path, plan in zip(paths, plans, strict=True):
        with whole_file(path) as stream:
            stream.write((json.dumps(plan) + "\n").encode())
    return paths


def _mapping(metadata: Mapping[str, object], key: str) -> dict[str, Any] | None:
    value = metadata.get(key)
    return value if isinstance(value, dict) else None
