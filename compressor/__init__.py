"""Trains, prunes and ships convolutional networks: slim ONNX files, and channel skipping that is real.

Importing it needs no torch, so that `compress bench` and `compress list isas` run on a device that has none.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
