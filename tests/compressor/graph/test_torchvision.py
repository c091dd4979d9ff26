"""The blocks of each torchvision family, a few of each; `tests/benchmarks/graph_sweep.py` runs the full networks."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import convnext, densenet, efficientnet, mobilenetv2, mobilenetv3, regnet, resnet, shufflenetv2
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import lraspp

from compressor.graph import ChannelGraph


def mobilenet_v3() -> nn.Module:
    block = partial(mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    settings = [block(16, 3, 16, 16, True, "RE", 1, 1), block(16, 5, 40, 24, True, "HS", 2, 1)]
    return mobilenetv3.MobileNetV3([*settings, block(24, 5, 48, 24, False, "HS", 1, 1)], last_channel=64)


def efficientnet_v2() -> nn.Module:
    settings = [
        efficientnet.FusedMBConvConfig(2, 3, 1, 8, 8, 2),
        efficientnet.FusedMBConvConfig(4, 3, 2, 8, 16, 1),
        efficientnet.MBConvConfig(4, 3, 2, 16, 24, 2, 1.0, 1.0),
    ]
    return efficientnet.EfficientNet(settings, dropout=0.2, last_channel=64)


def regnet_y() -> nn.Module:
    parameters = regnet.BlockParams.from_init_params(depth=5, w_0=16, w_a=10.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return regnet.RegNet(parameters)


def segmentation() -> nn.Module:
    backbone = IntermediateLayerGetter(mobilenet_v3().features, {"1": "low", "3": "high"})
    return lraspp.LRASPP(backbone, low_channels=16, high_channels=24, num_classes=5, inter_channels=12)


# Network → what may be frozen besides input and output, shown by a part of the reason.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "resnet": (lambda: resnet.ResNet(resnet.BasicBlock, [2, 1, 1, 1]), ()),
    "resnext": (lambda: resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4), ()),
    "densenet": (lambda: densenet.DenseNet(8, (2, 2, 2, 2), 16, bn_size=2), ()),
    "mobilenet_v2": (lambda: mobilenetv2.MobileNetV2(inverted_residual_setting=[[2, 16, 2, 1], [6, 24, 2, 2]]), ()),
    "mobilenet_v3": (mobilenet_v3, ()),
    "efficientnet_v2": (efficientnet_v2, ()),
    "regnet_y": (regnet_y, ()),
    "shufflenet": (lambda: shufflenetv2.ShuffleNetV2([2, 2, 1], [8, 32, 64, 128, 64]), ()),
    "convnext": (
        lambda: convnext.ConvNeXt([convnext.CNBlockConfig(16, 24, 2), convnext.CNBlockConfig(24, None, 1)]),
        ("layer_norm statistics",),
    ),
    "lraspp": (segmentation, ()),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_silenced_equals_shrunk(name: str, check_cut: Callable[..., ChannelGraph]) -> None:
    build, reasons = FAMILIES[name]
    torch.manual_seed(0)
    graph = check_cut(build(), torch.randn(2, 3, 32, 32), seeds=1)
    frozen = {g.frozen for g in graph.groups if g.frozen is not None}
    strange = {r for r in frozen if r not in ("network input", "network output") and not any(x in r for x in reasons)}
    assert not strange
    assert graph.unreached == ()
    assert any(g.frozen is None for g in graph.groups)
