"""ONNX files out of torch networks: written small, proved equal, and readable afterwards.

Importing this package needs onnx and numpy only; `export` loads torch when it is called.
"""

from exporters.errors import ExportError
from exporters.export import ExportedModel, export
from exporters.inspect import NodeReport, OnnxReport, inspect_onnx

__all__ = ["ExportError", "ExportedModel", "NodeReport", "OnnxReport", "export", "inspect_onnx"]
