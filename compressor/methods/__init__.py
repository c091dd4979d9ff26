"""Pruning methods, one file each; the folder is the registry and a file's name is the method's name.

A file `NAME_part.py` beside `NAME.py` holds a part of that method and is no method of its own.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from compressor.errors import MethodError

if TYPE_CHECKING:  # `names` works where torch is absent
    from compressor.methods.base import Method

__all__ = ["get", "names"]


def names() -> list[str]:
    """The methods' names as the command line takes them, sorted.

    >>> "fbs" in names(), "fbs-op" in names()
    (True, False)
    """
    files = {module.name for module in pkgutil.iter_modules(__path__)} - {"base"}
    parts = {name for name in files for method in files if name.startswith(f"{method}_")}
    return sorted(name.replace("_", "-") for name in files - parts)


def get(name: str) -> "type[Method]":
    """The class of a method, the one public class of its file.

    >>> get("fbs").__name__
    'FBS'

    Raises:
        MethodError: no such method.
    """
    if name not in names():
        raise MethodError(f"unknown method '{name}'; choose from: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    (class_name,) = module.__all__
    method: type[Method] = getattr(module, class_name)
    return method
