"""Errors of the runtime package.

RuntimeLibraryError        anything the runtime cannot do; catch this one
├── LibraryNotFoundError   the native library is asked for but is not built
├── UnavailableIsaError    the instruction set is unknown, not built, or not on this machine
├── SessionError           a model cannot be loaded or run
└── BenchmarkError         a model cannot be measured (`runtime.results`)
"""

__all__ = ["LibraryNotFoundError", "RuntimeLibraryError", "SessionError", "UnavailableIsaError"]


class RuntimeLibraryError(Exception):
    """Base of every error this package raises; the message says what came and what to do."""


class LibraryNotFoundError(RuntimeLibraryError):
    """The native library is needed but is not built, or COMPRESS_LIBRARY names no file."""


class UnavailableIsaError(RuntimeLibraryError):
    """An instruction set was asked for that is unknown, not built, or not on this machine."""


class SessionError(RuntimeLibraryError):
    """A model cannot be loaded or run; the cause is ONNX Runtime's own error."""
