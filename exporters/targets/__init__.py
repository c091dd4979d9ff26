"""What a file can be made for; the folder is the list: one file, one class, file name = target's name."""

import importlib
import pkgutil

from exporters.errors import ExportError
from exporters.targets.onnx import Onnx

__all__ = ["Onnx", "get", "names"]


def names() -> list[str]:
    """The targets that `get` knows.

    >>> "onnx" in names()
    True
    """
    return sorted(entry.name for entry in pkgutil.iter_modules(__path__))


def get(name: str) -> type[Onnx]:
    """The class of a target.

    Raises:
        ExportError: no such target.
    """
    if name not in names():
        raise ExportError(f"unknown target '{name}'; choose from: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found: type[Onnx] = getattr(module, module.__all__[0])
    return found
