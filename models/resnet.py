"""Residual networks for 32×32 images (He et al., CVPR 2016), with 1×1-convolution shortcuts."""

import torch
from torch import nn

from models._blocks import ConvBlock, initialise

__all__ = ["resnet20", "resnet56"]


class BasicBlock(nn.Module):
    """relu(conv2(conv1(x)) + shortcut(x)); the shortcut is a 1×1 block where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(in_channels, out_channels, stride=stride)
        self.conv2 = ConvBlock(out_channels, out_channels, relu=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvBlock(in_channels, out_channels, kernel_size=1, stride=stride, relu=False)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output, (N, out_channels, H / stride, W / stride)."""
        output: torch.Tensor = self.relu(self.conv2(self.conv1(x)) + self.shortcut(x))
        return output


class ResNet(nn.Module):
    """Stem of 16 channels and three stages of 16, 32, 64: (N, in_channels, 32, 32) -> (N, num_classes).

    Depth = 6 · `blocks_per_stage` + 2. ResNet-56 with 10 classes: 0.856 M parameters, 125.75 M MACs.
    """

    def __init__(self, blocks_per_stage: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.input_size = (in_channels, 32, 32)
        self.stem = ConvBlock(in_channels, 16)
        self.stage1 = _stage(16, 16, 1, blocks_per_stage)
        self.stage2 = _stage(16, 32, 2, blocks_per_stage)
        self.stage3 = _stage(32, 64, 2, blocks_per_stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, num_classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, (N, num_classes)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        logits: torch.Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """Returns an untrained ResNet-20."""
    return ResNet(3, num_classes, in_channels)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """Returns an untrained ResNet-56."""
    return ResNet(9, num_classes, in_channels)


def _stage(in_channels: int, out_channels: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))
