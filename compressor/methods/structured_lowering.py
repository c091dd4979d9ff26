"""A strided layer as a smaller matrix product: only rows of the lowered feature map that some kernel reads.

    Y = Kmat @ U        Kmat: (O, R), U: (R, Ho * Wo), R = sum over source maps of |keep(s_c, f_c)|, not C * kh * kw

Row (c, q) of U is the feature map c as tap q = u * kw + v sees it. Exact as long as all live kernels of a source map
keep the same positions; kernels that are gone whole are zeros in Kmat. A row's place is c * kh * kw + q, places ascend:
W and P of the runtime's sparse convolution are `weight` and `places` here.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LoweredKernels", "lower", "lowered_conv2d"]

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class LoweredKernels:
    """A convolution's live weights.

    Attributes:
        weight: (O, R), the columns of the lowered kernel matrix that are there.
        places: int64, (R,), which of the C * kh * kw they are, ascending.
        kernel_size: (kh, kw).
    """

    weight: Tensor
    places: Tensor
    kernel_size: Pair


def lower(weight: Tensor, mask: Tensor) -> LoweredKernels:
    """Returns the live columns of a convolution's lowered kernel matrix.

    Args:
        weight: (O, C, kh, kw), of one group.
        mask: Booleans that broadcast to it, True where a weight stays.

    Raises:
        ValueError: Two live kernels of a source map keep different positions: such a mask saves storage, not rows.
    """
    taps = mask.expand(weight.shape).flatten(2)  # (O, C, taps)
    rows = taps.any(dim=0)  # of each source map
    wrong = (taps.any(dim=2, keepdim=True) & (taps != rows)).any(dim=2).any(dim=0)
    if bool(wrong.any()):
        raise ValueError(
            f"kernels of source map {int(wrong.nonzero()[0])} keep different positions, so no row can go; "
            "let all kernels of a map share their offset"
        )
    places = rows.flatten().nonzero().flatten()
    matrix = (weight * mask).flatten(1).index_select(1, places)
    return LoweredKernels(matrix, places, (weight.shape[2], weight.shape[3]))


def lowered_conv2d(
    x: Tensor, kernels: LoweredKernels, *, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1)
) -> Tensor:
    """Returns the convolution (N, O, Ho, Wo) of (N, C, H, W) by the reduced product; what a fast kernel must equal."""
    _, _, height, width = x.shape
    kh, kw = kernels.kernel_size
    out_h = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    out_w = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows = []
    for place in kernels.places.tolist():
        channel, (u, v) = place // (kh * kw), divmod(place % (kh * kw), kw)
        seen = padded[:, channel, u * dilation[0] :: stride[0], v * dilation[1] :: stride[1]]
        rows.append(seen[:, :out_h, :out_w].flatten(1))
    lowered = torch.stack(rows, dim=1) if rows else x.new_zeros(len(x), 0, out_h * out_w)
    return torch.matmul(kernels.weight, lowered).reshape(len(x), -1, out_h, out_w)
