"""Widths a target runs well: multiples of its vector block.

Measured with ONNX Runtime 1.31.1 on AVX-512 (six 3×3 convolutions, 28×28, one thread): 128 channels 8.1 ms, 127
channels 11.1 ms. A multiple of 16 is best, a multiple of 4 runs as if padded to the next 16, anything else leaves the
blocked path. The groups of a grouped convolution must each be whole blocks wide: on 3×3 with groups 16 wide 52 G
multiply-accumulates per second, 8 wide 12 G.
"""

import math

import numpy as np
import torch

from compressor.costs.widths import Counts
from compressor.graph import ChannelGraph, ChannelGroup

__all__ = ["STEPS", "allowed_counts", "machine_target", "whole_blocks"]

# Target → step in channels. AVX2's blocked layout holds 8 floats; tensor cores take 8 half-precision channels.
STEPS = {"onnxruntime-avx512": 16, "onnxruntime-avx2": 8, "tensorrt": 8, "tensorrt-int8": 32, "off": 1}


def machine_target() -> str:
    """Returns the target of ONNX Runtime on this machine's processor, a key of `STEPS`."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "onnxruntime-avx512" if wide else "onnxruntime-avx2"


def allowed_counts(group: ChannelGroup, step: int, floor: int) -> Counts:
    """Returns the unit counts a group may have, ascending; always its full size.

    Args:
        group: its width says how many channels one unit is.
        step: channels a layer should be a multiple of; 1 allows every count.
        floor: least number of units.

    >>> from compressor.graph import ChannelGroup
    >>> allowed_counts(ChannelGroup("a", 0, 40, ("a",)), 16, 1).tolist()
    [16, 32, 40]
    """
    if group.frozen is not None:
        return np.array([group.size], dtype=np.int64)
    unit_step = step // math.gcd(step, group.width)
    counts = np.arange(unit_step, group.size + 1, unit_step, dtype=np.int64)
    return np.unique(np.append(counts[counts >= floor], group.size))


def whole_blocks(graph: ChannelGraph, allowed: list[Counts], step: int) -> list[Counts]:
    """Returns the counts that leave the groups of grouped convolutions whole blocks wide, where they are to begin with.

    Args:
        graph: the network's channel graph.
        allowed: counts each group may have, ascending, its full size last.
        step: channels of a block.
    """
    kept = list(allowed)
    for layer in graph.layers:
        sides = (layer.inputs, layer.outputs)
        if not 1 < layer.groups < len(layer.inputs) or any(len(side) // layer.groups % step for side in sides):
            continue
        for i, group in enumerate(graph.groups):
            for side in sides if len(kept[i]) > 1 else ():
                held = int(((side >= group.start) & (side < group.start + group.size)).sum())
                channels = kept[i] * (held // group.size)
                kept[i] = kept[i][(channels % (step * layer.groups) == 0) | (kept[i] == group.size)]
    return kept
