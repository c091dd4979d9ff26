"""The few parts of protobuf's wire format that an ONNX file is read and written by without the onnx package.

A message is a row of fields: a varint that holds the field's number and kind, then the value. Source:
protobuf.dev/programming-guides/encoding.
"""

import mmap
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Field", "bytes_field", "fields", "varint", "varint_field"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


class Field(NamedTuple):
    """Where one field of a message lies.

    Attributes:
        number: The field's number in its message.
        start: Offset of its tag.
        begin: Offset of its value, behind the length where it has one.
        end: Offset behind its value.
    """

    number: int
    start: int
    begin: int
    end: int


def fields(content: bytes | mmap.mmap, begin: int, end: int) -> Iterator[Field]:
    """Yields the fields of the message that lies in content[begin:end].

    >>> [tuple(field) for field in fields(bytes_field(5, b"abc") + varint_field(14, 1), 0, 7)]
    [(5, 0, 2, 5), (14, 5, 6, 7)]

    Raises:
        ValueError: It is not a message.
    """
    while begin < end:
        start = begin
        tag, begin = _read_varint(content, begin, end)
        kind = tag & 7
        if kind == _VARINT:
            _, stop = _read_varint(content, begin, end)
        elif kind == _BYTES:
            length, begin = _read_varint(content, begin, end)
            stop = begin + length
        elif kind in _FIXED_SIZES:
            stop = begin + _FIXED_SIZES[kind]
        else:
            raise ValueError(f"offset {start} holds a field of kind {kind}; ONNX has none such")
        if stop > end:
            raise ValueError(f"the field at offset {start} ends at {stop}, behind its message, which ends at {end}")
        yield Field(tag >> 3, start, begin, stop)
        begin = stop


def varint(value: int) -> bytes:
    """Returns a number in base 128, lowest digits first."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def varint_field(number: int, value: int) -> bytes:
    """Returns a field that holds a number."""
    return varint(number << 3 | _VARINT) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Returns a field that holds bytes, text or a message."""
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


def _read_varint(content: bytes | mmap.mmap, begin: int, end: int) -> tuple[int, int]:
    """Returns the number at `begin` and the offset behind it."""
    value = 0
    for shift in range(0, 70, 7):  # ten digits hold 64 bits
        if begin >= end:
            break
        digit = content[begin]
        begin += 1
        value |= (digit & 0x7F) << shift
        if digit < 0x80:
            return value, begin
    raise ValueError(f"no number ends before offset {begin}")
