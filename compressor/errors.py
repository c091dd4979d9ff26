"""Errors a caller can act on, one class per reason.

    CompressorError
    ├── DataError         a data set is missing, damaged or not what the name says
    ├── CheckpointError   a checkpoint cannot be read, or is not for this network
    ├── GraphError        a network cannot be traced
    ├── OnnxError         an ONNX file cannot become a network to train
    ├── MethodError       a method cannot be applied to this network
    ├── PlanError         a pruning plan does not fit a graph
    └── BudgetError       a budget cannot be met; the message says the closest reachable

Each message says what came, what is allowed and what to do. Wrong argument types stay `TypeError`/`ValueError`.
"""

__all__ = [
    "BudgetError",
    "CheckpointError",
    "CompressorError",
    "DataError",
    "GraphError",
    "MethodError",
    "OnnxError",
    "PlanError",
]


class CompressorError(Exception):
    """Base of all errors that the compressor raises on purpose."""


class DataError(CompressorError):
    """A data set is missing, damaged or not what its name says."""


class CheckpointError(CompressorError):
    """A checkpoint cannot be read, or does not belong to this network."""


class GraphError(CompressorError):
    """A network cannot be traced."""


class OnnxError(CompressorError):
    """An ONNX file cannot become a network to train."""


class MethodError(CompressorError):
    """A method cannot be applied to this network."""


class PlanError(CompressorError):
    """A pruning plan does not fit the channel graph."""


class BudgetError(CompressorError):
    """A budget cannot be met; the message says the closest reachable."""
