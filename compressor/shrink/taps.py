"""Kernels that keep evenly spaced rows and columns only: a smaller or dilated convolution, exactly.

Rows u = f, f + s, … of kh stay, n of them, last row l. Output row y of the dense convolution reads input rows
y * stride - padding + u * dilation; so does a kernel of n rows with

    dilation' = s * dilation        padding' = padding - f * dilation        on the upper side
                                    padding' = padding - (kh - 1 - l) * dilation        on the lower side

and the same for columns. A convolution has one padding for both sides, at least 0: both must agree.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressor.errors import PlanError
from compressor.plan import KernelTaps

__all__ = ["cut_taps", "fits_taps", "kept_taps", "silence_taps"]


def fits_taps(layer: nn.Module, taps: KernelTaps) -> bool:
    """Says whether a convolution with these rows and columns is a smaller or dilated convolution."""
    return _geometry(layer, taps) is not None


def cut_taps(model: nn.Module, taps: Mapping[str, KernelTaps]) -> None:
    """Replaces, in `model`, the kernels of convolutions by what stays of them.

    Raises:
        PlanError: A layer is not a convolution with kernels of the plan's size, or there is no such convolution.
    """
    for name, kept in taps.items():
        layer = dict(model.named_modules()).get(name)
        geometry = None if layer is None else _geometry(layer, kept)
        if layer is None or geometry is None:
            raise PlanError(
                f"the plan keeps rows {kept.rows} and columns {kept.columns} of {kept.size} kernels of {name!r}, which "
                "is no convolution that can do so; prune this network anew"
            )
        assert isinstance(layer, nn.Conv2d)
        kernel_size = (len(kept.rows), len(kept.columns))
        layer.weight = nn.Parameter(
            kept_taps(layer.weight.detach(), kept).clone(), requires_grad=layer.weight.requires_grad
        )
        (layer.dilation, layer.padding), layer.kernel_size = geometry, kernel_size
        # What a convolution derives from its padding; unused where the padding is zeros.
        layer._reversed_padding_repeated_twice = [side for side in reversed(geometry[1]) for _ in range(2)]


def silence_taps(model: nn.Module, taps: Mapping[str, KernelTaps]) -> None:
    """Sets, in `model`, the rows and columns that a plan cuts to 0."""
    for name, kept in taps.items():
        weight = model.get_parameter(f"{name}.weight")
        stays = torch.zeros(kept.size, dtype=torch.bool, device=weight.device)
        stays[torch.tensor(kept.rows)[:, None], torch.tensor(kept.columns)] = True
        with torch.no_grad():
            weight.masked_fill_(~stays, 0.0)


def kept_taps(weight: Tensor, taps: KernelTaps) -> Tensor:
    """Returns (O, C, n, m): the rows and columns of (O, C, kh, kw) that stay."""
    rows, columns = (torch.tensor(places, device=weight.device) for places in (taps.rows, taps.columns))
    return weight.index_select(2, rows).index_select(3, columns)


def _geometry(layer: nn.Module, taps: KernelTaps) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Dilation and padding of the convolution with these taps; None where there is none."""
    if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    if tuple(layer.kernel_size) != taps.size:
        return None
    dilations, paddings = [], []
    for axis, places in enumerate((taps.rows, taps.columns)):
        dilation, padding = layer.dilation[axis], layer.padding[axis]
        before, after = places[0], taps.size[axis] - 1 - places[-1]
        own = padding - before * dilation
        if before != after or own < 0:
            return None
        dilations.append(dilation * (places[1] - places[0]) if len(places) > 1 else 1)
        paddings.append(own)
    return (dilations[0], dilations[1]), (paddings[0], paddings[1])
