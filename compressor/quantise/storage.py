"""What fixed-point weights take on a chip, recomputed from their levels alone.

    bits = live weights * word length  +  32 per step  +  masks

Masks say which weights are not there, in the three granularities of structured pruning: 1 bit per channel where one
is gone, 1 bit per kernel (input map to output map) between live channels, and per source map the stride s and offset
f of the positions that stay, ceil(log2 s) + ceil(log2 s_max) bits: once for a flattened kernel, or once for its rows
and once for its columns, whichever is less for the layer. A mask is used where it saves more than it takes; any other
zero is a level like the others and costs a word (arXiv 1512.08571 for the granularities; the accounting is ours).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from compressor.quantise.quantiser import FixedPoint, q_format

__all__ = ["FLOAT_BITS", "LayerStorage", "layer_storage", "packed_bytes", "stored_bits"]

FLOAT_BITS = 32
_NIBBLE = 4


@dataclass(frozen=True)
class LayerStorage:
    """One quantised tensor.

    Attributes:
        name: Of the weight in the network's state.
        bits: Word length.
        weights: How many the dense tensor has.
        live: How many are stored; masks tell which.
        steps: How many there are.
        step_min: The finest.
        step_max: The coarsest.
        q_format: Qm.n where the steps are powers of two.
        mask_bits: All masks together.
        packed_bits: Live weights at their word length, steps and masks.
    """

    name: str
    bits: int
    weights: int
    live: int
    steps: int
    step_min: float
    step_max: float
    q_format: str | None
    mask_bits: int
    packed_bits: int

    def to_json(self) -> dict[str, Any]:  # JSON values
        """Returns plain values under the attributes' names."""
        return asdict(self)


def layer_storage(name: str, fixed: FixedPoint) -> LayerStorage:
    """Returns what a tensor (K, C, kh, kw), (K, C), or of any other shape takes."""
    live, mask_bits = _live_and_masks(fixed.levels, fixed.bits)
    steps = fixed.step.numel()
    return LayerStorage(
        name=name,
        bits=fixed.bits,
        weights=fixed.levels.numel(),
        live=live,
        steps=steps,
        step_min=float(fixed.step.min()),
        step_max=float(fixed.step.max()),
        q_format=q_format(fixed),
        mask_bits=mask_bits,
        packed_bits=live * fixed.bits + steps * FLOAT_BITS + mask_bits,
    )


def packed_bytes(layers: Iterable[LayerStorage], num_floats: int) -> int:
    """Returns bytes of all layers packed, with so many further numbers (biases, batch norms) as float32."""
    return math.ceil((sum(layer.packed_bits for layer in layers) + FLOAT_BITS * num_floats) / 8)


def stored_bits(bits: int) -> int:
    """Returns the width that a file has for a word: INT4 up to 4 bits, INT8 above.

    >>> [stored_bits(bits) for bits in (2, 4, 5, 8)]
    [4, 4, 8, 8]
    """
    return _NIBBLE if bits <= _NIBBLE else 2 * _NIBBLE


def _live_and_masks(levels: Tensor, bits: int) -> tuple[int, int]:
    """How many weights are stored, and how many bits tell which."""
    if levels.dim() < 2 or not levels.any():
        return (levels.numel() if levels.any() else 0), 0
    taps = levels.reshape(levels.shape[0], levels.shape[1], -1) != 0  # (K, C, positions)
    positions = taps.shape[2]
    kernels = taps.any(dim=2)
    rows, columns = kernels.any(dim=1), kernels.any(dim=0)
    # A channel that is gone: an output's row here; an input's column, told by the layer before.
    masks = sum(len(channels) for channels in (rows, columns) if not channels.all())
    if (len(rows) * len(columns) - int(rows.sum() * columns.sum())) * positions * bits <= masks:
        rows, columns, masks = torch.ones_like(rows), torch.ones_like(columns), 0
    taps = taps[rows][:, columns]
    kept, stride_bits = _strided(taps.any(dim=0), levels.shape[2:], len(taps) * bits)
    kernels = taps.any(dim=2).to(torch.int64)
    live, dense = int((kernels * kept).sum()), int(kept.sum()) * len(taps)
    if (dense - live) * bits > kernels.numel():
        return live, masks + stride_bits + kernels.numel()
    return dense, masks + stride_bits


def _strided(sources: Tensor, kernel: Sequence[int], word: int) -> tuple[Tensor, int]:
    """How many positions of each source map (C, positions) are stored, and how many bits tell which.

    The cheapest of three: all positions, a pattern of the flattened kernel, one of rows and one of columns.
    `word` is what a position takes.
    """
    total = sources.shape[1]
    ways = [(torch.full((len(sources),), total), 0), _patterns([sources])]
    if len(kernel) == 2:
        places = sources.reshape(-1, *kernel)
        ways.append(_patterns([places.any(dim=2), places.any(dim=1)]))
    return min(ways, key=lambda way: int(way[0].sum()) * word + way[1])


def _patterns(axes: Sequence[Tensor]) -> tuple[Tensor, int]:
    """As `_strided`, with a stride and an offset for each of the axes, each (C, positions)."""
    kept, bits = torch.ones(len(axes[0]), dtype=torch.int64), 0
    for axis in axes:
        found = [_stride(support) for support in axis]
        kept *= torch.tensor([count for _, count in found], dtype=torch.int64)
        bits += _stride_bits([stride for stride, _ in found])
    return kept, bits


def _stride_bits(strides: list[int]) -> int:
    """An offset below its stride and the stride itself for each source map; nothing where none is strided."""
    widest = math.ceil(math.log2(max(strides, default=1)))
    return sum(math.ceil(math.log2(stride)) + widest for stride in strides) if widest else 0


def _stride(support: Tensor) -> tuple[int, int]:
    """Stride of the sparsest pattern {q : q >= f, (q - f) mod s = 0} that holds all of `support`, and its size."""
    total = len(support)
    places = torch.where(support)[0].tolist() or [total - 1]
    first = places[0]
    # The smallest stride with no further position, where there is only one.
    stride = math.gcd(*(place - first for place in places)) or max(first + 1, total - first)
    return stride, math.ceil((total - first % stride) / stride)
