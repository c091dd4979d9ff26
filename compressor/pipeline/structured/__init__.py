"""The road of structured pruning: `road` searches masks layer by layer and retrains."""

from compressor.pipeline.structured.road import Searches, forget, keep_zeros, search_all

__all__ = ["Searches", "forget", "keep_zeros", "search_all"]
