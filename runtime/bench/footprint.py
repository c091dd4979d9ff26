"""Bytes: of a model on disk, of this process in memory."""

import mmap
import sys
from pathlib import Path

__all__ = ["file_bytes", "peak_rss_bytes", "rss_bytes"]

# How a tensor with external data names its file, byte for byte: a StringStringEntryProto with field 1 (tag
# 0x0A, 8 bytes) "location" and field 2 (tag 0x12, length, text) the path relative to the model. Source:
# onnx.proto, TensorProto.external_data.
_LOCATION = b"\x0a\x08location\x12"


def file_bytes(path: str | Path) -> int:
    """Returns the size of an ONNX file plus that of every external data file it names.

    Not for a process whose memory is measured: reading the file makes it resident.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = _external_names(content)
    return size + sum((path.parent / name).stat().st_size for name in names if (path.parent / name).is_file())


def _external_names(content: mmap.mmap) -> set[str]:
    names = set()
    start = content.find(_LOCATION)
    while start >= 0:
        position, length, shift = start + len(_LOCATION), 0, 0
        while position < len(content):  # the length is a base-128 varint, lowest digits first
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        names.add(content[position : position + length].decode("utf-8", errors="replace"))
        start = content.find(_LOCATION, position)
    return {name for name in names if name and "\0" not in name}


def rss_bytes() -> int | None:
    """Returns the resident memory of this process now; None where the system does not say."""
    return _status_bytes("VmRSS")


def peak_rss_bytes() -> int:
    """Returns the highest resident memory of this process so far.

    Linux's VmHWM belongs to this program alone. `getrusage`, the way elsewhere, may start from what the
    parent held when it forked.
    """
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    import resource  # does not exist on every system

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024  # macOS counts bytes, others KiB


def _status_bytes(key: str) -> int | None:
    """Returns one memory entry of Linux's process status ("VmHWM:  123 kB"); None where there is none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None
