"""Which weights of a network's convolutions are live, counted.

    density of a layer = sum over live kernels (o, c) of |keep_c| / (O * C * kh * kw) = weights that are not 0 / all
    rows               = sum over source maps of the positions that some kernel of the map keeps

A row is one of the lowered feature map's, R of the C * kh * kw: those that no kernel reads need not be there.
"""

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["LayerDensity", "count_weights"]


@dataclass(frozen=True)
class LayerDensity:
    """One convolution.

    Attributes:
        name: Its module's path.
        weights: All of them.
        live: Those that are not 0.
        kernels: Pairs of an input map and an output map.
        live_kernels: Those with a live weight.
        all_rows: Rows of the lowered feature map, C * kh * kw.
        rows: Those that a live weight reads.
    """

    name: str
    weights: int
    live: int
    kernels: int
    live_kernels: int
    all_rows: int
    rows: int

    @property
    def density(self) -> float:
        """Part of the weights that is live, 0 to 1."""
        return self.live / self.weights


def count_weights(model: nn.Module) -> list[LayerDensity]:
    """Returns one entry for each convolution, in the network's order."""
    result = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            live = module.weight.detach().flatten(2) != 0
            result.append(
                LayerDensity(
                    name=name,
                    weights=live.numel(),
                    live=int(live.sum()),
                    kernels=live[:, :, 0].numel(),
                    live_kernels=int(live.any(dim=2).sum()),
                    all_rows=live[0].numel(),
                    rows=int(torch.any(live, dim=0).sum()),
                )
            )
    return result
