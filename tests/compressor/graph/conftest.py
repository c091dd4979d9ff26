"""The invariant every network must keep: dense with the cut channels silenced == shrunk, outputs and gradients."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from compressor.graph import ChannelGraph, trace
from compressor.graph.cut import sliced
from compressor.graph.program import arguments
from compressor.plan import PruningPlan
from compressor.shrink import kept_units, shrink, silence

# Double precision rounds at 1e-16; a deep network sums it up a few thousand times. A wrong channel shows at 1e-2.
TOLERANCE = 1e-10


def randomise(model: nn.Module) -> None:
    """Gives norms, layer scales and zero-initialised weights values that let every channel show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() and (tensor.dim() <= 1 or tensor.std() < 1e-3 or "scale" in name):
                tensor.uniform_(0.3, 1.0, generator=generator)


def random_plan(graph: ChannelGraph, seed: int) -> PruningPlan:
    """Cuts a random number of random units of every group that allows it."""
    generator = np.random.default_rng(seed)
    keep = {}
    for group in graph.groups:
        if group.frozen is None and group.size > 1:
            count = int(generator.integers(max(1, group.size // 3), group.size))
            keep[group.name] = tuple(sorted(generator.choice(group.size, count, replace=False).tolist()))
    return PruningPlan(keep, {name: graph.group(name).size for name in keep})


def _forward(model: nn.Module, example: object) -> list[torch.Tensor]:
    args, kwargs = arguments(example)  # type: ignore[arg-type]
    return [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]


def _loss(outputs: list[torch.Tensor]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return sum((o * torch.rand(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs)  # type: ignore[return-value]


@pytest.fixture
def check_cut() -> Callable[..., ChannelGraph]:
    """Returns a function that traces a network and checks the invariant with random plans."""

    def check(model: nn.Module, example: object, *, seeds: int = 3, gradients: bool = True) -> ChannelGraph:
        model = copy.deepcopy(model).double().eval()
        randomise(model)
        example = pytree.tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, example)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        graph = trace(model, example)  # type: ignore[arg-type]
        for seed in range(seeds):
            plan = random_plan(graph, seed)
            dense, slim = silence(model, graph, plan), shrink(model, graph, plan)
            with torch.set_grad_enabled(gradients):
                want, got = _forward(dense, example), _forward(slim, example)
            for w, g in zip(want, got, strict=True):
                assert w.shape == g.shape
                assert float((w - g).detach().abs().max()) <= TOLERANCE * float(w.detach().abs().max()), plan
            if gradients:
                _loss(want).backward()
                _loss(got).backward()
                keep, shrunk = kept_units(graph, plan), dict(slim.named_parameters())
                for path, parameter in dense.named_parameters():
                    own, theirs = parameter.grad, shrunk[path].grad
                    assert (own is None) == (theirs is None), path
                    if own is not None and theirs is not None:
                        part = sliced(own, graph.axes.get(path, ()), keep)
                        assert float((part - theirs).abs().max()) <= TOLERANCE * float(own.abs().max() + 1e-3), path
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        return graph

    return check
