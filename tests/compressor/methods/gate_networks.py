"""Small networks with every place a gate can be: residual sums, no batch norm, a hidden linear layer, flatten."""

import functools

import torch
from torch import Tensor, nn

from compressor.graph import ChannelGraph, trace

EXAMPLE = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A stem, two blocks that add to it, a wider block with a convolution on its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.inner_bn = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.outer, self.outer_bn = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.wide_bn = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.short, self.short_bn = nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.BatchNorm2d(16)
        self.classifier = nn.Linear(16 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_bn(self.stem(x)))
        x = torch.relu(x + self.outer_bn(self.outer(torch.relu(self.inner_bn(self.inner(x))))))
        x = torch.relu(self.wide_bn(self.wide(x)) + self.short_bn(self.short(x)))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


class Plain(nn.Module):
    """Convolutions with and without bias, none with a batch norm, and a hidden linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, bias=False)
        self.hidden, self.last = nn.Linear(12 * 4 * 4, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits: Tensor = self.last(torch.relu(self.hidden(x.flatten(1))))
        return logits


class PreActivation(nn.Module):
    """Batch norms before the convolutions, over a sum and over a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn3, self.classifier = nn.BatchNorm2d(14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv1(torch.relu(self.bn1(x)))
        x = torch.cat([x, self.conv2(torch.relu(self.bn2(x)))], 1)
        logits: Tensor = self.classifier(torch.relu(self.bn3(x)).mean((2, 3)))
        return logits


NETWORKS = (Residual, Plain, PreActivation)


def build(kind: type[nn.Module], *, seed: int = 0) -> nn.Module:
    """Returns the network in float64 with batch norms as training would leave them; |beta / gamma| stays below 10."""
    torch.manual_seed(seed)
    model = kind().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.3, 1.5)
                module.weight[::3] *= -1
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 2)
    return model


@functools.cache
def graph_of(kind: type[nn.Module]) -> ChannelGraph:
    """Returns the network's channel graph, traced once."""
    return trace(build(kind), EXAMPLE[:2].double())
