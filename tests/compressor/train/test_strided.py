"""bf16 training never takes the weight gradient of a strided 1×1 convolution, which can write beyond its memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from compressor import data
from compressor.train import TrainSettings, train
from compressor.train.strided import safe_in_bf16


class Gradients(TorchDispatchMode):
    """Notes (kernel, stride) of every convolution that is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.add((tuple(args[2].shape[2:]), tuple(args[4])))
        return func(*args, **(kwargs or {}))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 5, 3, padding=1)
        self.branch = nn.Conv2d(5, 10, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(5, 10, 1, stride=2)
        self.head = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.branch(x) + self.shortcut(x))
        logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_training_keeps_to_it(precision: str) -> None:
    torch.manual_seed(0)
    settings = TrainSettings(epochs=1, batch_size=512, precision=precision, epoch_images=1024)
    with Gradients() as gradients:
        train(Residual(), data.load("digits"), settings=settings)
    strided = ((1, 1), (2, 2)) in gradients.seen
    assert ((3, 3), (2, 2)) in gradients.seen
    assert strided == (precision == "32")


@pytest.mark.parametrize(
    ("stride", "padding", "groups"), [(2, 0, 1), ((2, 3), (0, 0), 1), (3, "valid", 5), (2, 1, 1), (1, 0, 1)]
)
def test_it_is_the_same_function(
    stride: int | tuple[int, int], padding: int | str | tuple[int, int], groups: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(5, 10, 1, stride, padding, groups=groups).double()
    images = torch.randn(3, 5, 9, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    wanted = layer(images)
    gradients = torch.autograd.grad(wanted.square().sum(), [images, *layer.parameters()])
    with safe_in_bf16(bf16=True):
        found = layer(images)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), [images, *layer.parameters()]), gradients, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
