"""Networks of 8 to 16 channels, dense or with FBS layers, with batch-norm statistics as training leaves them."""

import torch
from torch import nn

from compressor.methods.fbs_layer import FBSConv2d, FBSOptions


class Chain(nn.Module):
    """Convolutions with stride, max-pool and dropout in between, average, classifier."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *block(3, 8),
            *block(8, 16, stride=2),
            nn.MaxPool2d(2),
            nn.Dropout(),
            *block(16, 12, kernel_size=1, relu6=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(12, 5)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))


class Inverted(nn.Module):
    """Stem, inverted residual blocks (expansion, depthwise, projection) with and without a sum, classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*block(3, 8, stride=2, relu6=True))
        self.block1 = InvertedBlock(8, 24, 8)
        self.block2 = InvertedBlock(8, 20, 12, stride=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.block2(x + self.block1(x)).mean((2, 3)))


class InvertedBlock(nn.Sequential):
    def __init__(self, channels, middle, outputs, stride=1):
        super().__init__(
            *block(channels, middle, kernel_size=1, relu6=True),
            *depthwise(middle, stride=stride),
            *block(middle, outputs, kernel_size=1)[:2],
        )


class Separable(nn.Module):
    """Depthwise convolutions and 1x1 ones in turn, classifier."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *block(3, 8, relu6=True),
            *depthwise(8),
            *block(8, 16, kernel_size=1, relu6=True),
            *depthwise(16, stride=2),
            *block(16, 12, kernel_size=1),
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class Forked(nn.Module):
    """Planes that a depthwise convolution and another layer read."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*block(3, 16, stride=2, relu6=True))
        self.depthwise = nn.Sequential(*depthwise(16))
        self.project = nn.Sequential(*block(16, 12, kernel_size=1)[:2])
        self.side = nn.Sequential(*block(16, 12, kernel_size=1)[:2])
        self.last = nn.Sequential(*block(12, 12, kernel_size=1))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.last(self.project(self.depthwise(x)) + self.side(x)).mean((2, 3)))


class Residual(nn.Module):
    """Stem, a block with identity shortcut, a block with a 1x1 shortcut, classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*block(3, 8), nn.MaxPool2d(3, 2, 1))
        self.layer1 = BasicBlock(8, 8, 1)
        self.layer2 = BasicBlock(8, 16, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class BasicBlock(nn.Module):
    def __init__(self, channels, outputs, stride):
        super().__init__()
        self.conv1, self.bn1, self.relu = block(channels, outputs, stride=stride)
        self.conv2, self.bn2, _ = block(outputs, outputs)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(*block(channels, outputs, stride=stride, kernel_size=1)[:2])

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


def block(channels, outputs, *, stride=1, kernel_size=3, relu6=False):
    conv = nn.Conv2d(channels, outputs, kernel_size, stride, kernel_size // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU6() if relu6 else nn.ReLU()


def depthwise(channels, *, stride=1):
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return conv, nn.BatchNorm2d(channels), nn.ReLU6()


def settled(network, seed=0):
    """Changes `network`: random statistics and affine parameters, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(
                    torch.randn(module.weight.shape, generator=generator) / module.weight[0].numel() ** 0.5
                )
            if isinstance(module, nn.Linear):
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
            if isinstance(module, nn.BatchNorm2d):
                for values, low in (
                    (module.weight, 0.5),
                    (module.running_var, 0.5),
                    (module.bias, -0.5),
                    (module.running_mean, -0.5),
                ):
                    values.copy_(torch.rand(values.shape, generator=generator) + low)
    return network


def with_fbs(network, *, density=0.5, seed=0, spread=0.3, **options):
    """Changes `network`: every convolution but depthwise ones becomes, with the batch norm behind it, an FBS layer."""
    generator = torch.Generator().manual_seed(seed)
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if not isinstance(module, nn.Conv2d) or module.groups > 1:
            continue
        holder, own = name.rpartition(".")[::2]
        norm = own.replace("conv", "bn") if own.startswith("conv") else str(int(own) + 1)
        parent = modules[holder]
        layer = FBSConv2d(
            module, getattr(parent, norm), density=density, options=FBSOptions(**options), generator=generator
        )
        with torch.no_grad():
            layer.saliency_weight.copy_(spread * torch.randn(layer.saliency_weight.shape, generator=generator))
            layer.saliency_bias.copy_(torch.ones_like(layer.saliency_bias))
        setattr(parent, own, layer)
        setattr(parent, norm, nn.Identity())
    return network
