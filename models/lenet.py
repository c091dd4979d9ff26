"""The two networks of LeCun et al. (Proc. IEEE 1998) on which pruning papers report MNIST results.

With ReLU, max pools and logits, as those papers have them; the originals squash and end in radial basis functions.
None has a batch norm: train them at a tenth of the other networks' learning rates.
"""

from itertools import pairwise

import torch
from torch import nn

from models._blocks import initialise

__all__ = ["lenet5", "lenet5_caffe", "lenet300100"]


class LeNet300100(nn.Module):
    """Flatten, 300, 100, linear: (N, in_channels, 28, 28) -> (N, num_classes).

    With 10 classes and one input channel: 266,610 parameters, 0.266 M MACs.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.input_size = (in_channels, 28, 28)
        self.fc1 = nn.Linear(in_channels * 28 * 28, 300)
        self.fc2 = nn.Linear(300, 100)
        self.classifier = nn.Linear(100, num_classes)
        self.relu = nn.ReLU()
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, (N, num_classes)."""
        x = self.relu(self.fc1(x.flatten(1)))
        logits: torch.Tensor = self.classifier(self.relu(self.fc2(x)))
        return logits


class LeNet5(nn.Module):
    """Two 5×5 convolutions, each with a 2×2 max pool, then linear layers: (N, in_channels, 28, 28) -> (N, num_classes).

    Args:
        widths: Outputs of the two convolutions.
        padding: Zeros around the image; 2 makes the original's 32×32 out of MNIST's 28×28.
        hidden: Outputs of the linear layers before the last.
        num_classes: Outputs.
        in_channels: Of the images.
    """

    def __init__(
        self, widths: tuple[int, int], padding: int, hidden: tuple[int, ...], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.input_size = (in_channels, 28, 28)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5, padding=padding)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        side = ((28 + 2 * padding - 4) // 2 - 4) // 2  # of the planes after the second pool
        sizes = (widths[1] * side * side, *hidden)
        hidden_layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            hidden_layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.hidden = nn.Sequential(*hidden_layers)
        self.classifier = nn.Linear(sizes[-1], num_classes)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, (N, num_classes)."""
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        logits: torch.Tensor = self.classifier(self.hidden(x.flatten(1)))
        return logits


def lenet300100(num_classes: int = 10, in_channels: int = 1) -> LeNet300100:
    """Returns an untrained LeNet-300-100."""
    return LeNet300100(num_classes, in_channels)


def lenet5(num_classes: int = 10, in_channels: int = 1) -> LeNet5:
    """Returns an untrained LeNet-5, 6C5-P2-16C5-P2-120-84-10: 61,706 parameters, 0.416 M MACs."""
    return LeNet5((6, 16), 2, (120, 84), num_classes, in_channels)


def lenet5_caffe(num_classes: int = 10, in_channels: int = 1) -> LeNet5:
    """Returns an untrained LeNet-5 as Caffe has it, 20C5-P2-50C5-P2-500-10: 431,080 parameters, 2.29 M MACs."""
    return LeNet5((20, 50), 0, (500,), num_classes, in_channels)
