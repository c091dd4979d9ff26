"""Puts models on disk: one file, or, where protobuf's limit is passed, a file and its weights beside it."""

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

__all__ = ["SIZE_LIMIT_BYTES", "data_path", "is_external", "move_model", "save_model", "skeleton"]

SIZE_LIMIT_BYTES = 2**31 - 1
"""Largest protobuf message, so largest ONNX file without external data."""

# Smaller tensors stay in the file: shapes, axes and indices must be readable without the weights.
_OUTSIDE_BYTES = 1024


def data_path(path: Path) -> Path:
    """Where the external weights of a model lie: m.onnx.data beside m.onnx."""
    return path.with_name(f"{path.name}.data")


def is_external(model: ModelProto, limit_bytes: int = SIZE_LIMIT_BYTES) -> bool:
    """True if the model does not fit into one file of `limit_bytes`."""
    return bool(model.ByteSize() > limit_bytes)


def save_model(model: ModelProto, path: Path, *, limit_bytes: int = SIZE_LIMIT_BYTES) -> None:
    """Writes the model, its larger tensors beside it where it is larger than the limit; equal models, equal bytes."""
    if not is_external(model, limit_bytes):
        from exporters.aligned import write_aligned  # brings onnxruntime with it, which reading a file does not need

        write_aligned(model, path, limit_bytes=limit_bytes)
        return
    copy = ModelProto()
    copy.CopyFrom(model)
    data_path(path).unlink(missing_ok=True)  # onnx would append to it
    onnx.external_data_helper.convert_model_to_external_data(
        copy, all_tensors_to_one_file=True, location=data_path(path).name, size_threshold=_OUTSIDE_BYTES
    )
    copy = onnx.external_data_helper.write_external_data_tensors(copy, str(path.parent))
    path.write_bytes(copy.SerializeToString(deterministic=True))


def move_model(source: Path, destination: Path) -> None:
    """Moves a model under its final name on the same disk, the weights first; both have the same file name."""
    if data_path(source).is_file():
        data_path(source).replace(data_path(destination))
    source.replace(destination)


def skeleton(model: ModelProto) -> ModelProto:
    """A copy for shape inference: larger float tensors are declared as inputs and hold no numbers."""
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.INT8) and tensor.ByteSize() > _OUTSIDE_BYTES:
            result.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            result.graph.initializer.append(tensor)
    return result
