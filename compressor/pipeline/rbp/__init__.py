"""The road of RBP (reconstruction): `road` is the recursion over the layers."""

from compressor.pipeline.rbp.road import Recursion, forget, recurse
from compressor.pipeline.rbp.shares import open_choices

__all__ = ["Recursion", "forget", "open_choices", "recurse"]
