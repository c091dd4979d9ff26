"""Turns any exception into the one line that the command prints before it ends with 1."""

import sys

from compressor.errors import CompressorError

__all__ = ["one_line", "wrong_usage"]

# Errors of the sibling packages, looked up only where the package is loaded: a command that never touched
# torch must not load it to report an error.
_SIBLINGS = (
    ("exporters.errors", "ExportError"),
    ("runtime.errors", "RuntimeLibraryError"),
    ("models", "ModelError"),
)
_TRAINING_MODULES = {"torch", "torchvision", "lightning_fabric", "sklearn", "onnxscript", "onnx_graphsurgeon"}


def one_line(error: Exception) -> str:
    """Returns what happened and what to do, in one line.

    1. An error raised on purpose by one of the four packages: its own text.
    2. A missing training package: how to install it.
    3. A file that cannot be read or written: the system's text and the path.
    4. Anything else is a defect of ours: its type and text, and how to see the traceback.
    """
    if isinstance(error, _known_errors()):
        return " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _TRAINING_MODULES:
        return f"this command needs {error.name}, which is not installed: pip install 'compressor[train]'"
    if isinstance(error, OSError):
        path = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{path}"
    text = " ".join(str(error).split())[:500]
    return f"unexpected {type(error).__name__}: {text} (run again with --debug for the traceback)"


def wrong_usage(error: Exception) -> str | None:
    """Returns what is wrong with the words of a command, in one line, and None where something else is.

    Empty where the help was printed instead, as for no words at all.
    """
    # Of typer's parser, whose classes lie in other places from version to version.
    if getattr(error, "exit_code", None) != 2 or not hasattr(error, "format_message"):
        return None
    context = getattr(error, "ctx", None)
    text = " ".join(error.format_message().split()).rstrip(".")
    command = "compress" if context is None else context.command_path
    return f"{text}; see {command} --help" if text else ""


def _known_errors() -> tuple[type[Exception], ...]:
    loaded = (getattr(sys.modules.get(module), name, None) for module, name in _SIBLINGS)
    return (CompressorError, *(cls for cls in loaded if cls is not None))
