"""Reads an ONNX file that may be anything, and says in one line what is wrong with it."""

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

from exporters import opset
from exporters.errors import ExportError
from exporters.functions import check_node
from exporters.store import is_external

__all__ = ["check_finite", "check_ops", "check_runnable", "load_onnx"]

_RUNTIME_DOMAINS = ("ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")

_SHOWN = 5
"""Names listed in a message before it says how many more there are."""


def load_onnx(path: str | Path) -> ModelProto:
    """Returns the model in the file, external data included, after checking it.

    Raises:
        ExportError: no such file, not ONNX, truncated, external data missing, an op that neither ONNX nor
            this project knows, weights that are not finite, or anything else ONNX's own checker refuses.
    """
    model = _parsed(Path(path))
    check_ops(model, str(path))
    check_finite(model, str(path))
    try:
        # A model that does not fit into one message is checked where it lies.
        onnx.checker.check_model(str(path) if is_external(model) else model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ExportError(f"{path}: refused by ONNX's checker: {_one_line(error)}") from error
    return model


def check_runnable(path: str | Path) -> None:
    """Says in one line why no runtime could load a file; ops of ONNX Runtime's own domains pass.

    Raises:
        ExportError: as `load_onnx`, but weights that are not finite and what ONNX's checker refuses are let through.
    """
    check_ops(_parsed(Path(path)), str(path), also=_RUNTIME_DOMAINS)


def _parsed(path: Path) -> ModelProto:
    """The model, external data included; ExportError where there is none, or a part of it is missing."""
    if not path.is_file():
        raise ExportError(f"{path}: no such file; give an ONNX file")
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path}: not an ONNX file, or cut off ({path.stat().st_size} bytes)") from error
    if not model.graph.node or not model.opset_import:
        raise ExportError(f"{path}: not an ONNX model: it holds no graph with nodes and opset versions")
    _load_external(model, path)
    _check_stored(model, path)
    return model


def check_ops(model: ModelProto, where: str, *, also: Collection[str] = ()) -> None:
    """Raises ExportError listing all nodes whose op is not standard, local to the file or in `opset.OPS`.

    Versions that the installed onnx does not know are refused too. Ops of the domains in `also` pass.
    """
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version, newest = versions.get("", versions.get("ai.onnx", 0)), onnx.defs.onnx_opset_version()
    if not 0 <= version <= newest:
        raise ExportError(f"{where}: opset {version} is not known here; the installed onnx knows 1 to {newest}")
    functions = {(function.domain, function.name) for function in model.functions}
    unknown = []
    for node in model.graph.node:
        if node.domain in also:
            continue
        if node.domain == opset.DOMAIN:
            check_node(node)
        elif (node.domain, node.op_type) not in functions and not _is_standard(node.op_type, node.domain, versions):
            unknown.append(f"{node.domain or 'ai.onnx'}.{node.op_type} (node '{node.name}')")
    if unknown:
        raise ExportError(
            f"{where}: unknown ops: {_listed(unknown)}; allowed are ONNX's own of its opset version, local "
            f"functions of the file, and {', '.join(f'{opset.DOMAIN}.{name}' for name in opset.OPS)}"
        )


def check_finite(model: ModelProto, where: str) -> None:
    """Raises ExportError listing all float initializers with NaN, or infinity other than as a single bound."""
    broken = []
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
            values = numpy_helper.to_array(tensor)
            if np.isnan(values).any() or (values.size > 1 and np.isinf(values).any()):
                broken.append(tensor.name)
    if broken:
        raise ExportError(f"{where}: weights with NaN or infinity: {_listed(broken)}; train or load them again")


def _load_external(model: ModelProto, path: Path) -> None:
    outside = [tensor for tensor in model.graph.initializer if external_data_helper.uses_external_data(tensor)]
    locations = {external_data_helper.ExternalDataInfo(tensor).location for tensor in outside}
    missing = sorted(location for location in locations if not (path.parent / location).is_file())
    if missing:
        raise ExportError(
            f"{path}: its weights lie in other files that are missing: {_listed(missing)}; put them beside it"
        )
    try:
        for tensor in outside:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{path}: its external weights cannot be read: {_one_line(error)}") from error


def _check_stored(model: ModelProto, path: Path) -> None:
    """A file cut off between two fields still parses; then tensors hold too few numbers for their shapes."""
    short = []
    for tensor in model.graph.initializer:
        try:
            stored = numpy_helper.to_array(tensor).size
        except (ValueError, TypeError, KeyError):
            stored = -1
        if stored != math.prod(tensor.dims):
            short.append(tensor.name)
    if short:
        raise ExportError(f"{path}: damaged or cut off: too few numbers in {_listed(short)}")


def _is_standard(op_type: str, domain: str, versions: dict[str, int]) -> bool:
    version = versions.get(domain, versions.get("ai.onnx", 0) if not domain else 0)
    try:
        onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
