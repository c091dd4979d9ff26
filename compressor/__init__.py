"""Trains, prunes and ships convolutional networks: slim ONNX files, and channel skipping that is real.

    result = compressor.compress(model, example, method="l1", budget="macs=0.5x", train=loader, val=loader)
    compressor.export(result, "slim.onnx")
    compressor.benchmark(["dense.onnx", "slim.onnx"], threads=(1, 4))

Importing it needs no torch, so that `compress bench` and `compress list isas` run on a device that has none; the
functions above are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.pipeline.api import Compressed, benchmark, compress, export, load

__version__ = "0.1.0"

__all__ = ["Compressed", "__version__", "benchmark", "compress", "export", "load"]


def __getattr__(name: str) -> Any:  # what `pipeline.api` has under that name
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compressor.pipeline import api

    return getattr(api, name)
