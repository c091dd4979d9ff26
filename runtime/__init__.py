"""Runs, and measures, exported models with numpy and ONNX Runtime only: no torch.

FBS layers run on native kernels where the library is built (`library_path`, `isas`), and on the function bodies that
every file carries where it is not.
"""

from runtime.errors import LibraryNotFoundError, RuntimeLibraryError, SessionError, UnavailableIsaError
from runtime.isas import Isa
from runtime.library import isas, library_path
from runtime.session import Session

__all__ = [
    "Isa",
    "LibraryNotFoundError",
    "RuntimeLibraryError",
    "Session",
    "SessionError",
    "UnavailableIsaError",
    "isas",
    "library_path",
]
