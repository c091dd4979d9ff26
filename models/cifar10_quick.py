"""Caffe's `cifar10_quick`, the small network after cuda-convnet (Krizhevsky 2012; Jia et al. 2014)."""

import torch
from torch import nn

from models._blocks import initialise

__all__ = ["cifar10_quick"]


class Cifar10Quick(nn.Module):
    """32C5-P-32C5-P-64C5-P-64-10: (N, in_channels, 32, 32) -> (N, num_classes).

    The pools are 3×3 at stride 2, the first a maximum, the others means; here they pad by 1, where Caffe lets the last
    window hang over the edge. No batch norm: train it at a quarter of the other networks' learning rates. With 10
    classes and 3 input channels: 145,578 parameters, 12.35 M MACs.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.input_size = (in_channels, 32, 32)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 32, 5, padding=2),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 5, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        )
        self.hidden = nn.Linear(64 * 4 * 4, 64)
        self.classifier = nn.Linear(64, num_classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, (N, num_classes)."""
        # Caffe has no ReLU between the two linear layers.
        logits: torch.Tensor = self.classifier(self.hidden(self.features(x).flatten(1)))
        return logits


def cifar10_quick(num_classes: int = 10, in_channels: int = 3) -> Cifar10Quick:
    """Returns an untrained cifar10_quick."""
    return Cifar10Quick(num_classes, in_channels)
