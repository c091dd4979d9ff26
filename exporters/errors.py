"""The exporters' one error; its message is one line: what came, what is allowed, what to do."""

__all__ = ["ExportError"]


class ExportError(Exception):
    """A network cannot be exported, or an ONNX file cannot be read, or the two disagree."""
