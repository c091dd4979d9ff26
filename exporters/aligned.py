"""Writes a model so that a session can use its weights where they lie in the file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from onnx import GraphProto, ModelProto, TensorProto

from runtime.model_file import ALIGNMENT, LEAST_BYTES
from runtime.wire import bytes_field, varint

__all__ = ["write_aligned"]

_Message = TypeVar("_Message", ModelProto, GraphProto, TensorProto)

# Numbers of fields. Source: onnx.proto.
_GRAPH = 7  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_RAW_DATA, _DOC_STRING = 9, 12  # of TensorProto
_BYTES = 2  # kind of a field

_MOST_LENGTH_BYTES = 5  # of a message's length, as varint


def write_aligned(model: ModelProto, path: Path, *, limit_bytes: int) -> None:
    """Writes a model in which every large weight begins at a multiple of 64 bytes; equal models, equal bytes.

    It is the same model to every reader: gaps are filled by a doc_string of spaces before a tensor's bytes, and where a
    field comes twice, the last one counts, here the doc_string behind the bytes. The order of fields has no meaning.

    Where the gaps would make the file larger than the limit, it has none.

    Args:
        model: At most `limit_bytes` long.
        path: Written over.
        limit_bytes: Largest file.
    """
    rest = _without(model, "graph").SerializeToString(deterministic=True)
    graph = _without(model.graph, "initializer").SerializeToString(deterministic=True)
    tensors = [_parts(tensor) for tensor in model.graph.initializer]
    tag = varint(_GRAPH << 3 | _BYTES)
    # Where the weights lie depends on how many digits the graph's length has, which depends on the gaps between them.
    for digits in range(1, _MOST_LENGTH_BYTES + 1):
        pieces = [graph, *_placed(tensors, len(rest) + len(tag) + digits + len(graph))]
        size = sum(map(len, pieces))
        if len(varint(size)) == digits and len(rest) + len(tag) + digits + size <= limit_bytes:
            with path.open("wb") as file:
                file.writelines([rest, tag, varint(size), *pieces])
            return
    path.write_bytes(model.SerializeToString(deterministic=True))


def _parts(tensor: TensorProto) -> tuple[bytes, bytes, bytes]:
    """Returns a tensor in three parts: what stands before its bytes, if these are many, the bytes, its doc_string."""
    if len(tensor.raw_data) < LEAST_BYTES:
        return tensor.SerializeToString(deterministic=True), b"", b""
    head = _without(tensor, "raw_data")
    head.ClearField("doc_string")
    return head.SerializeToString(deterministic=True), tensor.raw_data, tensor.doc_string.encode()


def _placed(tensors: list[tuple[bytes, bytes, bytes]], position: int) -> Iterator[bytes]:
    """Yields the graph's fields from `position` of the file on."""
    for head, data, description in tensors:
        if not data:
            pieces = [bytes_field(_INITIALIZER, head)]
        else:
            tail = bytes_field(_DOC_STRING, description)
            pieces = [_aligned(head, len(data), len(tail), position), data, tail]
        yield from pieces
        position += sum(map(len, pieces))


def _aligned(head: bytes, size: int, tail: int, position: int) -> bytes:
    """Returns what stands before `size` bytes of a tensor, and `tail` behind, so that they begin aligned."""
    data = varint(_RAW_DATA << 3 | _BYTES) + varint(size)
    filler = b""
    while True:  # one more byte at a time; two where that lengthens a length, so a second turn may be needed
        inner = head + bytes_field(_DOC_STRING, filler) + data
        prefix = varint(_INITIALIZER << 3 | _BYTES) + varint(len(inner) + size + tail) + inner
        if (position + len(prefix)) % ALIGNMENT == 0:
            return prefix
        filler += b" "


def _without(message: _Message, name: str) -> _Message:
    """Returns a copy of a message that lacks one field, which may be large."""
    result = type(message)()
    for field, value in message.ListFields():
        if field.name == name:
            continue
        if isinstance(value, int | float | str | bytes):
            setattr(result, field.name, value)
        elif hasattr(value, "extend"):
            getattr(result, field.name).extend(value)
        else:
            getattr(result, field.name).CopyFrom(value)
    return result
