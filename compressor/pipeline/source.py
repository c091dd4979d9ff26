"""From what a user names as MODEL to a network in memory: a checkpoint, or an untrained architecture."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import models
from compressor import checkpoint
from compressor.errors import CompressorError
from compressor.methods.fbs import layers

__all__ = ["Source", "dense_counterpart", "open_source"]


@dataclass(frozen=True)
class Source:
    """A network and what is known of it.

    Attributes:
        name: What the user typed.
        model: In evaluation mode.
        size: (channels, height, width) of one input.
        saved: The checkpoint it came from; None for an untrained architecture.
    """

    name: str
    model: nn.Module
    size: tuple[int, int, int]
    saved: checkpoint.CompressedCheckpoint | None

    @property
    def method(self) -> str | None:
        """Name of the method attached to the network."""
        return None if self.saved is None else self.saved.method

    def example(self, batch: int = 2) -> Tensor:
        """Random normal inputs (batch, channels, height, width), always the same."""
        return torch.randn(batch, *self.size, generator=torch.Generator().manual_seed(0))


def open_source(name: str | checkpoint.CompressedCheckpoint, *, untrained: bool = False) -> Source:
    """Returns the network that `name` stands for.

    Args:
        name: A checkpoint or its path; with `untrained`, what `models.build` takes.
        untrained: Build an architecture with random weights (always the same): for latency studies only.

    Raises:
        CompressorError: There is no such checkpoint, or it is not usable.
        ModelError: There is no such architecture.
    """
    if isinstance(name, checkpoint.CompressedCheckpoint):
        return Source("the network", checkpoint.rebuild(name), name.preprocessing.size, name)
    if untrained:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = models.build(name).eval()
            _spread_batch_norms(model)
        return Source(name, model, models.input_size(name), None)
    path = Path(name)
    if not path.is_file():
        raise CompressorError(
            f"no checkpoint {name}; train one with 'compress train', or add --untrained "
            "for an architecture with random weights"
        )
    saved = checkpoint.load(path)
    return Source(name, checkpoint.rebuild(saved), saved.preprocessing.size, saved)


def dense_counterpart(source: Source) -> nn.Module | None:
    """Returns the dense network of the same architecture, with random weights; None where `source` is dense itself."""
    if source.saved is None:
        return open_source(source.name, untrained=True).model if layers(source.model) else None
    if source.saved.plan is None and source.saved.method is None:
        return None
    return checkpoint.base_network(source.saved).eval()


@torch.no_grad()
def _spread_batch_norms(model: nn.Module) -> None:
    """Changes `model`: statistics as of a trained network, so that no op is folded away as trivial."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
