"""Small members of the four families, written by both of torch's exporters."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from torchvision.models import densenet, mobilenetv2, resnet, vgg

SIDE = 32


def _vgg() -> nn.Module:
    features = vgg.make_layers([8, "M", 8, "M", 16, 16, "M", 16, "M"], batch_norm=True)
    network = vgg.VGG(features, num_classes=10, init_weights=False)
    network.avgpool = nn.AdaptiveAvgPool2d(2)
    network.classifier = nn.Sequential(nn.Linear(16 * 4, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10),
    "mobilenet_v2": lambda: mobilenetv2.MobileNetV2(
        num_classes=10, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    ),
    "vgg16_bn": _vgg,
    "densenet121": lambda: densenet.DenseNet(8, (2, 2), 16, num_classes=10),
}


def network_of(name: str) -> nn.Module:
    """Random weights, and batch-norm statistics as of a trained network."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def write(network: nn.Module, path: Path, *, dynamo: bool, **options: Any) -> Path:
    """By torch's exporter alone, batch of two; deprecation notes of the older exporter are not ours."""
    example = options.pop("example", torch.randn(2, 3, SIDE, SIDE))
    if dynamo:
        options["external_data"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), str(path), dynamo=dynamo, verbose=False, **options)
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], tuple[nn.Module, Path]]:
    """(name, by the newer exporter) -> the network and its file."""
    folder = tmp_path_factory.mktemp("exported")

    def of(name: str, dynamo: bool) -> tuple[nn.Module, Path]:
        path = folder / f"{name}_{'new' if dynamo else 'old'}.onnx"
        network = network_of(name)
        if not path.exists():
            options = {} if dynamo else {"input_names": ["image"], "dynamic_axes": {"image": {0: "batch"}}}
            write(network, path, dynamo=dynamo, **options)
        return network, path

    return of


def ops_of(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]
