"""M-CifarNet, the eight-layer network of the FBS paper (Gao et al., ICLR 2019)."""

import torch
from torch import nn

from models._blocks import ConvBlock, initialise
from models._dropout import Dropout

__all__ = ["cifarnet"]


class CifarNet(nn.Module):
    """Eight 3×3 blocks, global average, linear: (N, in_channels, 32, 32) -> (N, num_classes).

    64 without padding (32 -> 30), 64, 128 stride 2 (-> 15), 128, dropout, 128, 192 stride 2 (-> 8), 192,
    dropout, 192. With 10 classes and 3 input channels: 174.3 M MACs, 1.294 M weights in convolutions and
    classifier, 1.296 M parameters with the batch norms.
    """

    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__()
        self.input_size = (in_channels, 32, 32)
        self.features = nn.Sequential(
            ConvBlock(in_channels, 64, padding=0),
            ConvBlock(64, 64),
            ConvBlock(64, 128, stride=2),
            ConvBlock(128, 128),
            Dropout(dropout),
            ConvBlock(128, 128),
            ConvBlock(128, 192, stride=2),
            ConvBlock(192, 192),
            Dropout(dropout),
            ConvBlock(192, 192),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(192, num_classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, (N, num_classes)."""
        logits: torch.Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def cifarnet(num_classes: int = 10, in_channels: int = 3, dropout: float = 0.5) -> CifarNet:
    """Returns an untrained M-CifarNet; `dropout` as the paper's code has it, a short training wants less."""
    return CifarNet(num_classes, in_channels, dropout)
