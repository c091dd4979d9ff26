"""Noise on the inputs of layers: one vector of rates for the units of a channel group, shared by all that read them.

Layers carry it as a child named `noise` and multiply their input by it in a forward pre-hook, so after batch norm and
activation, where no batch norm takes the scale back. A training pass draws one number per example and unit; every
reader of the group sees the same draw. An evaluation pass uses the mean network, t = 1 - r.

Draws depend on the seed and on how many were made before, and are made for the whole batch of all processes together:
an example has the same noise on 1 or N of them (they share a batch out in turns), and in a stage that goes on.
"""

import copy
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compressor.methods.rbp_noise import LEAST_RATE, BernoulliMoments
from compressor.methods.rbp_places import ChainStep

__all__ = ["ChannelNoise", "NoisyInput", "add_noise", "find_noise", "fold_noise"]

_CHILD = "noise"
# Of Adam. A stage may be a few hundred steps short, so it remembers squares for 100, not 1000.
_MEMORY = 0.9
_SQUARE_MEMORY = 0.99
_LEAST_GRADIENT = 1e-12
# Keeps the draws of different seeds apart; examples per block of draws.
_STRIDE = 1_000_003
_BLOCK = 64


class ChannelNoise(nn.Module):
    """Drop rates of the units of one group, and the numbers drawn for the present batch.

    Args:
        group: name of the group.
        rate: of every unit at the start.
        weights: (units,) factors of the units' divergence.
        law: turns rates and normal numbers into noise.
        seed: of the draws.
    """

    weights: Tensor
    draws: Tensor
    mean_gradient: Tensor
    mean_square: Tensor

    def __init__(self, group: str, *, rate: float, weights: Tensor, law: BernoulliMoments, seed: int) -> None:
        super().__init__()
        self.group, self.law, self.seed = group, law, seed
        self.logits = nn.Parameter(torch.full((len(weights),), rate).logit())
        self.register_buffer("weights", weights.to(torch.float32), persistent=False)
        # Adam's memory. Buffers, so that a stopped stage goes on exactly.
        self.register_buffer("mean_gradient", torch.zeros(len(weights)))
        self.register_buffer("mean_square", torch.zeros(len(weights)))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.gradient = torch.zeros(len(weights))
        self._normal: Tensor | None = None

    @property
    def rates(self) -> Tensor:
        """(units,), differentiable."""
        return torch.sigmoid(self.logits)

    @property
    def clipped_rates(self) -> Tensor:
        """(units,), in the range where the divergence is finite."""
        return self.rates.clamp(LEAST_RATE, 1 - LEAST_RATE)

    def draw(self, count: int) -> None:
        """Draws anew for `count` examples of this process."""
        rank, num_ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        device = self.logits.device
        generator = torch.Generator(device).manual_seed((self.seed * _STRIDE + int(self.draws)) % 2**63)
        # In blocks: processes with shares of different sizes draw the same beginning.
        blocks = [
            torch.randn(_BLOCK, len(self.logits), generator=generator, device=device)
            for _ in range(-(-count * num_ranks // _BLOCK))
        ]
        self._normal = torch.cat(blocks)[rank::num_ranks][:count]
        self.draws += 1

    def factors(self, count: int) -> Tensor:
        """Returns t: (count, units) as last drawn in training, (1, units) means in evaluation."""
        if not self.training:
            return self.law.mean(self.logits)[None]
        if self._normal is None or len(self._normal) != count:
            self.draw(count)
        assert self._normal is not None
        return self.law.sample(self.logits, self._normal)

    def take_gradient(self) -> None:
        """Keeps the gradient of the logits for `move`, where no other optimiser finds it."""
        self.gradient = torch.zeros_like(self.logits) if self.logits.grad is None else self.logits.grad
        self.logits.grad = None

    @torch.no_grad()
    def move(self, lr: float, *, step: int) -> None:
        """Makes one step of Adam (Kingma & Ba, ICLR 2015) and keeps the rates in range, where they have gradients.

        Args:
            lr: learning rate.
            step: counts from 1.
        """
        self.mean_gradient.lerp_(self.gradient, 1 - _MEMORY)
        self.mean_square.lerp_(self.gradient.square(), 1 - _SQUARE_MEMORY)
        square = self.mean_square / (1 - _SQUARE_MEMORY**step)
        self.logits.sub_(lr / (1 - _MEMORY**step) * self.mean_gradient / (square.sqrt() + _LEAST_GRADIENT))
        limit = torch.tensor(1 - LEAST_RATE).logit().item()
        self.logits.clamp_(-limit, limit)


class NoisyInput(nn.Module):
    """What one layer does with the noise of its inputs.

    Args:
        noise: of the group.
        index: (channels,) which unit of the group each input channel is; the number of units where it is of none.
        axis: channel axis of the input: 1 for convolutions, -1 for linear layers.
        first: this layer is the first to read the group, so it draws.
    """

    index: Tensor

    def __init__(self, noise: ChannelNoise, index: Tensor, *, axis: int, first: bool) -> None:
        super().__init__()
        self.noise, self.axis, self.first = noise, axis, first
        self.register_buffer("index", index, persistent=False)

    def multiply(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The hook: the layer's input times the noise, channel by channel."""
        data = inputs[0]
        if self.training and self.first:
            self.noise.draw(len(data))
        units = self.noise.factors(len(data))
        factors = torch.cat([units, units.new_ones(len(units), 1)], dim=1)[:, self.index].to(data.dtype)
        shape = [1] * data.dim()
        shape[0], shape[self.axis] = factors.shape
        return (data * factors.reshape(shape), *inputs[1:])

    @torch.no_grad()
    def fold(self, layer: nn.Module) -> None:
        """Changes `layer`: its weights of these inputs are multiplied by 1 - r."""
        assert isinstance(layer.weight, Tensor)
        mean = self.noise.law.mean(self.noise.logits)
        factors = torch.cat([mean, mean.new_ones(1)])[self.index]
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        dim = 0 if transposed else 1
        shape = [1] * layer.weight.dim()
        # A grouped convolution holds a part of its inputs on this axis; the parts lose the same places.
        shape[dim] = layer.weight.shape[dim]
        layer.weight.mul_(factors[: shape[dim]].reshape(shape))


def add_noise(
    model: nn.Module, steps: tuple[ChainStep, ...], *, rate: float, law: BernoulliMoments, seed: int = 0
) -> nn.Module:
    """Returns a copy whose layers have noise on the inputs that these steps of the chain are about.

    Args:
        model: a plain network.
        steps: groups and their readers; a layer may read one of them only.
        rate: of every unit at the start.
        law: of the noise.
        seed: of the draws.
    """
    noisy = copy.deepcopy(model)
    for place_in_chain, step in enumerate(steps):
        own_seed = seed * _STRIDE + place_in_chain
        noise = ChannelNoise(step.group, rate=rate, weights=torch.as_tensor(step.weights), law=law, seed=own_seed)
        for number, reader in enumerate(step.readers):
            layer = noisy.get_submodule(reader.name)
            axis = -1 if isinstance(layer, nn.Linear) else 1
            place = NoisyInput(noise, torch.as_tensor(reader.index), axis=axis, first=number == 0)
            place.train(layer.training)
            layer.add_module(_child(layer), place)
            layer.register_forward_pre_hook(place.multiply)
    return noisy


def find_noise(model: nn.Module) -> Iterator[ChannelNoise]:
    """Yields the noise of each group of a network, in order of first use."""
    for module in model.modules():
        if isinstance(module, ChannelNoise):
            yield module


def fold_noise(model: nn.Module) -> nn.Module:
    """Returns a copy without noise, with the outputs of the mean network; nothing is cut yet."""
    plain = copy.deepcopy(model)
    for layer in list(plain.modules()):
        for name, place in list(layer.named_children()):
            if isinstance(place, NoisyInput):
                place.fold(layer)
                delattr(layer, name)
                for key, hook in list(layer._forward_pre_hooks.items()):
                    if getattr(hook, "__self__", None) is place:
                        del layer._forward_pre_hooks[key]
    return plain


def _child(layer: nn.Module) -> str:
    """A name for one more noise of a layer: a layer after a concatenation may read several groups."""
    taken = sum(isinstance(child, NoisyInput) for child in layer.children())
    return _CHILD if not taken else f"{_CHILD}{taken + 1}"
