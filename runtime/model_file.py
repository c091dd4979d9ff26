"""An ONNX file without the bytes of its large weights, which stay where they are: in the file.

ONNX Runtime copies every weight that a file holds inside, twice while it loads. Weights that lie in a file beside the
model it maps instead: a page of them comes into memory when it is first read. So a session is given the model with
each large weight declared to lie at its place in "another" file, which is the same one.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from runtime.wire import Field, bytes_field, fields, varint_field

__all__ = ["ALIGNMENT", "LEAST_BYTES", "ModelFile", "read_model"]

ALIGNMENT = 64
"""Weights that are used where they lie in the file begin at a multiple of so many bytes: ONNX Runtime's own alignment.

`exporters` writes them so. Other writers do not; such a file is loaded as a whole.
"""

LEAST_BYTES = 1 << 14
"""Smaller weights stay in the model: each one that does not costs a mapping and pages of its own."""

# Numbers of fields. Source: onnx.proto.
_GRAPH = 7  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # of TensorProto
_KEY, _VALUE = 1, 2  # of StringStringEntryProto
_EXTERNAL = 1  # of TensorProto.DataLocation


@dataclass(frozen=True)
class ModelFile:
    """A model without its large weights.

    Attributes:
        content: The model, serialised; large weights are references to their places in the file.
        folder: Where ONNX Runtime is to look for the file of that name.
        is_mappable: A session may be made of `content`: it holds references, and every weight lies aligned.
    """

    content: bytes
    folder: Path
    is_mappable: bool


def read_model(path: Path) -> ModelFile | None:
    """Returns what a file holds besides its large weights, without reading those; None if it is no ONNX model.

    Raises:
        OSError: The file cannot be read.
    """
    path = path.resolve()
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _read(content, path)
            except ValueError:
                return None


def _read(content: mmap.mmap, path: Path) -> ModelFile:
    name = os.fsencode(path.name)
    places: list[int] = []
    model = []
    for field in fields(content, 0, len(content)):
        if field.number == _GRAPH:
            model.append(bytes_field(_GRAPH, _read_graph(content, field, name, places)))
        else:
            model.append(content[field.start : field.end])
    aligned = all(place % ALIGNMENT == 0 for place in places)
    return ModelFile(b"".join(model), path.parent, is_mappable=bool(places) and aligned)


def _read_graph(content: mmap.mmap, graph: Field, name: bytes, places: list[int]) -> bytes:
    """Returns the graph with its large weights replaced, and appends their places to `places`."""
    result = []
    for field in fields(content, graph.begin, graph.end):
        if field.number != _INITIALIZER:
            result.append(content[field.start : field.end])
            continue
        tensor = []
        for part in fields(content, field.begin, field.end):
            if part.number == _RAW_DATA and part.end - part.begin >= LEAST_BYTES:
                places.append(part.begin)
                tensor.append(_reference(name, part))
            else:
                tensor.append(content[part.start : part.end])
        result.append(bytes_field(_INITIALIZER, b"".join(tensor)))
    return b"".join(result)


def _reference(name: bytes, part: Field) -> bytes:
    """Returns the fields that stand for bytes in a file. Source: onnx.proto, TensorProto.external_data."""
    entries = {b"location": name, b"offset": b"%d" % part.begin, b"length": b"%d" % (part.end - part.begin)}
    pairs = (bytes_field(_KEY, key) + bytes_field(_VALUE, value) for key, value in entries.items())
    return b"".join(bytes_field(_EXTERNAL_DATA, pair) for pair in pairs) + varint_field(_DATA_LOCATION, _EXTERNAL)
