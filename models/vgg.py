"""VGG-16 with batch norm for 32×32 images (Simonyan & Zisserman 2015; one linear layer as classifier)."""

import torch
from torch import nn

from models._blocks import ConvBlock, initialise

__all__ = ["vgg16"]

# Output channels of the 3×3 blocks, one row per resolution; a 2×2 max pool follows each row.
_VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Rows of 3×3 blocks with max pools between, linear: (N, in_channels, 32, 32) -> (N, num_classes).

    VGG-16 with 10 classes: 14.7 M parameters, 313.2 M MACs.
    """

    def __init__(self, widths: tuple[tuple[int, ...], ...], num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.input_size = (in_channels, 32, 32)
        layers: list[nn.Module] = []
        channels = in_channels
        for row in widths:
            for width in row:
                layers.append(ConvBlock(channels, width))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, (N, num_classes)."""
        logits: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def vgg16(num_classes: int = 10, in_channels: int = 3) -> VGG:
    """Returns an untrained VGG-16-BN."""
    return VGG(_VGG16_WIDTHS, num_classes, in_channels)
