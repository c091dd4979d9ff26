"""The road of RBP (reconstruction): `road` is the recursion over the layers."""

from compressor.pipeline.rbp.road import Recursion, forget, recurse

__all__ = ["Recursion", "forget", "recurse"]
