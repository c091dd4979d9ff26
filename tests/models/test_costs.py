"""The networks are the ones that papers report on: parameters and multiply-accumulates agree."""

import pytest
import torch
from torch import nn

import models


def count_macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    macs = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        weight = module.get_parameter("weight")
        macs += output[0].numel() * weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    model.eval()(torch.zeros(1, *size, device="meta"))
    return macs


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        *(("cifarnet", 174.3), ("resnet20", 40.81), ("resnet56", 125.75), ("vgg16", 313.2)),
        *(("lenet300100", 0.2662), ("lenet5", 0.41652), ("lenet5_caffe", 2.293), ("cifar10_quick", 12.354)),
    ],
)
def test_macs_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        macs = count_macs(models.build(name), models.input_size(name))
    assert macs / 1e6 == pytest.approx(millions, rel=2e-4)


@pytest.mark.parametrize(("name", "millions"), [("resnet20", 0.2725), ("resnet56", 0.8558), ("vgg16", 14.72)])
def test_parameters_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = models.build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("lenet300100", 266_610), ("lenet5", 61_706), ("lenet5_caffe", 431_080), ("cifar10_quick", 145_578)],
)
def test_networks_without_batch_norm_have_the_published_parameters_exactly(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = models.build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_cifarnet_counts_convolutions_and_classifier_as_the_paper_does() -> None:
    with torch.device("meta"):
        model = models.build("cifarnet")
    parameters = [
        parameter.numel()
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        for parameter in module.parameters()
    ]
    assert sum(parameters) == 1_293_898  # 1.294 M; the batch norms' scales and shifts are 2,176 more
