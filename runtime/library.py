"""Where the native library is and what it offers. Nothing is loaded before it is asked for."""

import ctypes
import functools
import importlib.resources
import os
from pathlib import Path

from runtime.errors import LibraryNotFoundError
from runtime.isas import Isa

__all__ = ["LIBRARY_VARIABLE", "isas", "library_path", "way_of"]

LIBRARY_VARIABLE = "COMPRESS_LIBRARY"
"""Environment variable: path of the library to use instead of the installed one."""

_FILE_NAME = "libcompress_ops.so"
_NOT_BUILT = (Isa("generic", "portable C++", supported=True, built=False),)


def library_path() -> Path | None:
    """Returns the native library's path: COMPRESS_LIBRARY's where set, else the installed one; None if not built.

    Raises:
        LibraryNotFoundError: COMPRESS_LIBRARY is set but names no file.
    """
    override = os.environ.get(LIBRARY_VARIABLE)
    if override:
        if not Path(override).is_file():
            raise LibraryNotFoundError(
                f"{LIBRARY_VARIABLE} is '{override}', which is not a file; "
                f"set it to the path of a built {_FILE_NAME}, or unset it for the installed one"
            )
        return Path(override).resolve()
    # An editable install keeps the library in site-packages, away from the sources; resources know both places.
    found = importlib.resources.files("runtime").joinpath(_FILE_NAME)
    return Path(str(found)) if found.is_file() else None


def isas() -> list[Isa]:
    """Returns the instruction sets of the native library, best first; loads the library.

    Without a library there is one entry, `generic`, with `built` false.

    Raises:
        LibraryNotFoundError: COMPRESS_LIBRARY is set but names no file, or the file is not our library.
    """
    path = library_path()
    return list(_NOT_BUILT if path is None else _read_isas(path))


def way_of(node: str) -> str:
    """Returns how the native layer of this node's name came to its outputs, the last time it ran in this process.

    "packed": the winners' weights were squeezed together for that input; "winograd": likewise, and multiplied by
    Winograd's minimal filtering F(2x2, 3x3); "matrix": likewise, and multiplied in matrices of bfloat16, three a
    float; "all": every channel was computed from the stored weights and the winners kept; "stored": every channel wins
    and is computed from them; "" where no native layer of that name has run.

    Raises:
        LibraryNotFoundError: COMPRESS_LIBRARY is set but names no file, or the file is not our library.
    """
    path = library_path()
    return "" if path is None else _read_way(path, node)


def _read_way(path: Path, node: str) -> str:
    try:
        describe = ctypes.CDLL(str(path)).CompressWay
    except (OSError, AttributeError) as error:
        raise LibraryNotFoundError(f"{path} is not the library of native ops: {error}; build it again") from error
    describe.restype = ctypes.c_char_p
    describe.argtypes = [ctypes.c_char_p]
    way: bytes = describe(node.encode())
    return way.decode()


@functools.cache
def _read_isas(path: Path) -> tuple[Isa, ...]:
    try:
        describe = ctypes.CDLL(str(path)).CompressIsa
    except (OSError, AttributeError) as error:
        raise LibraryNotFoundError(f"{path} is not the library of native ops: {error}; build it again") from error
    describe.restype = ctypes.c_char_p
    describe.argtypes = [ctypes.c_int, ctypes.c_int]
    rows: list[Isa] = []
    while (name := describe(len(rows), 0)) is not None:
        description, supported = describe(len(rows), 1), describe(len(rows), 2)
        rows.append(Isa(name.decode(), description.decode(), supported=supported == b"1", built=True))
    return tuple(rows)
