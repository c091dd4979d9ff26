"""An FBS layer ready for inference: batch norm folded into plain tensors."""

from dataclasses import dataclass

from torch import Tensor, nn

from compressor.methods.fbs_op import fbs_conv

__all__ = ["FBSFolded", "FBSFoldedConv2d"]


@dataclass(frozen=True)
class FBSFolded:
    """One FBS layer with batch norm folded in; the arguments of `compress::fbs_conv` in its order."""

    weight: Tensor
    shift: Tensor
    post_shift: Tensor | None
    saliency_weight: Tensor
    saliency_bias: Tensor
    winners: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    saliency_slope: float
    normalize: bool
    winner_block: int = 1


class FBSFoldedConv2d(nn.Module):
    """A folded FBS layer as a module: buffers and one call of `compress::fbs_conv`, nothing else to trace."""

    weight: Tensor
    shift: Tensor
    post_shift: Tensor | None
    saliency_weight: Tensor
    saliency_bias: Tensor

    def __init__(self, folded: FBSFolded) -> None:
        super().__init__()
        for name in ("weight", "shift", "post_shift", "saliency_weight", "saliency_bias"):
            self.register_buffer(name, getattr(folded, name))
        self.winners = folded.winners
        self.stride, self.padding, self.dilation = folded.stride, folded.padding, folded.dilation
        self.saliency_slope, self.normalize = folded.saliency_slope, folded.normalize
        self.winner_block = folded.winner_block

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W'), suppressed channels exactly 0."""
        out: Tensor = fbs_conv(
            x,
            self.weight,
            self.shift,
            self.post_shift,
            self.saliency_weight,
            self.saliency_bias,
            self.winners,
            self.stride,
            self.padding,
            self.dilation,
            self.saliency_slope,
            self.normalize,
            self.winner_block,
        )
        return out
