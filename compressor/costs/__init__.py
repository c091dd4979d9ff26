"""What a network costs, one metric a file."""

from compressor.costs.macs import LayerCost, ModelCost, count_macs

__all__ = ["LayerCost", "ModelCost", "count_macs"]
