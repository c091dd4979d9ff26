"""From what torch's exporter gave to the finished graph: the target's passes, functions, metadata, checks."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import ModelProto

from exporters import opset
from exporters.errors import ExportError
from exporters.functions import attach_functions
from exporters.image_input import ImageInput, prepend_image_input
from exporters.inspect import inspect_model
from exporters.load import check_finite, check_ops
from exporters.metadata import package_version, write_metadata
from exporters.store import is_external, save_model
from exporters.targets.onnx import Onnx, Pass

__all__ = ["check", "describe", "prepended", "rewrite"]


def rewrite(captured: ModelProto, passes: tuple[Pass, ...], *, image: ImageInput | None) -> ModelProto:
    """Returns the captured graph after the passes, with local functions for the ops of our domain.

    Args:
        captured: From `exporters.capture`.
        passes: The target's.
        image: Preprocessing to put in front; None leaves the input as it is.
    """
    import onnx_graphsurgeon as gs  # with torch's exporter, part of the training install

    graph = gs.import_onnx(captured)
    if image is not None:
        prepend_image_input(graph, image)
    for apply in passes:
        apply(graph)
    graph.name = "main"
    return attach_functions(_exported(graph))


def prepended(model: ModelProto, image: ImageInput) -> ModelProto:
    """Returns a finished model with preprocessing in front."""
    import onnx_graphsurgeon as gs  # as in rewrite

    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.functions[:]  # written anew below
    graph = gs.import_onnx(bare)
    prepend_image_input(graph, image)
    result = attach_functions(_exported(graph))
    result.metadata_props.extend(model.metadata_props)
    return result


def describe(
    model: ModelProto, metadata: Mapping[str, object], path: Path, *, target: type[Onnx], macs: int | None = None
) -> None:
    """Changes `model`: producer and metadata; `macs` where they were counted before, else they are counted here."""
    model.producer_name = "compressor"
    model.producer_version = package_version()
    macs = inspect_model(model, path).macs if macs is None else macs
    write_metadata(
        model,
        {**metadata, **target.metadata(model, path.name), "version": package_version(), "macs": macs},
    )


def check(model: ModelProto, target: type[Onnx], *, limit_bytes: int) -> None:
    """Checks a finished model.

    Raises:
        ExportError: Unknown ops, weights that are not finite, what ONNX's checker refuses, or what the target's lint
            finds, all of it.
    """
    check_ops(model, "the exported graph")
    check_finite(model, "the exported graph")
    try:
        if is_external(model, limit_bytes):
            with tempfile.TemporaryDirectory() as folder:
                save_model(model, Path(folder) / "large.onnx", limit_bytes=limit_bytes)
                onnx.checker.check_model(str(Path(folder) / "large.onnx"), full_check=True)
        else:
            onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX's checker refuses the exported graph: {' '.join(str(error).split())}") from error
    if problems := target.problems(model):
        raise ExportError(f"target {target.__name__.lower()} does not take {'; '.join(problems)}")


def _exported(graph: object) -> ModelProto:
    """The graph as a model that imports the domains it uses."""
    import onnx_graphsurgeon as gs  # as in rewrite

    result: ModelProto = gs.export_onnx(graph, do_type_check=False)
    versions = [entry for entry in result.opset_import if entry.domain != opset.TORCH_DOMAIN]
    used = {node.domain for node in result.graph.node} | {""}
    del result.opset_import[:]
    result.opset_import.extend(entry for entry in versions if entry.domain in used)
    result.ir_version = opset.IR_VERSION
    return result
