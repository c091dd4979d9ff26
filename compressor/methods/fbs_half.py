"""Predictors of 16 bits: half the bytes of what an FBS network has more than a dense one.

A predictor's matrix (C, K) is as large as a 1x1 layer's kernels; in networks of many such layers half of what the dense
network weighs comes on top, is read for every image, and must stay in memory.
"""

import torch
from torch import nn

from compressor.errors import MethodError
from compressor.methods.fbs import layers

__all__ = ["round_predictors"]


@torch.no_grad()
def round_predictors(model: nn.Module) -> tuple[int, float]:
    """Changes `model`: each saliency weight becomes the nearest number of IEEE 754 binary16.

    Returns how many weights there are, and the largest change, as a fraction of the layer's largest weight.

    Raises:
        MethodError: The network has no FBS layers, or a weight is too large; nothing is changed then.
    """
    weights = {name: layer.saliency_weight for name, layer in layers(model).items()}
    if not weights:
        raise MethodError(
            "predictors of 16 bits: the network has no FBS layers; leave it out, or prune with --method fbs first"
        )
    largest = torch.finfo(torch.float16).max
    for name, weight in weights.items():
        if not bool((weight.abs() <= largest).all()):
            raise MethodError(
                f"predictors of 16 bits: layer {name} has saliency weights up to {weight.abs().max():.3g}; "
                f"allowed is {largest:g}; leave its predictors in float32"
            )
    change = 0.0
    for weight in weights.values():
        rounded = weight.half().to(weight.dtype)
        change = max(change, float((rounded - weight).abs().max() / weight.abs().max().clamp_min(1e-30)))
        weight.copy_(rounded)
    return sum(weight.numel() for weight in weights.values()), change
