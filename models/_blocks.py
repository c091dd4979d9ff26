"""The block that the project's own networks share, and their initialisation."""

import torch
from torch import nn

__all__ = ["ConvBlock", "initialise"]


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, ReLU: (N, in, H, W) -> (N, out, H', W').

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Side of the square kernel.
        stride: Step of the kernel.
        padding: Zeros on each side; None keeps the size at stride 1.
        relu: False ends the block at the batch norm (before a residual sum).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        relu: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        # Not in place: what a method reads at the batch norm's output must still be there after the ReLU.
        self.relu: nn.Module = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output, see the class."""
        output: torch.Tensor = self.relu(self.bn(self.conv(x)))
        return output


def initialise(model: nn.Module) -> None:
    """Changes `model`: convolutions He-normal over their outputs (He et al. 2015), linear biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
