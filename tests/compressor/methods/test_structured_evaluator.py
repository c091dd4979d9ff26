"""Rates from kept values are those of the masked networks, run whole."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.data import Task, accuracy
from compressor.errors import MethodError
from compressor.graph import ChannelGraph, trace
from compressor.methods.structured_evaluator import Evaluator
from compressor.methods.structured_fold import prepare
from compressor.methods.structured_masks import Particles
from compressor.methods.structured_parts import LayerMask
from compressor.methods.structured_program import read_program
from compressor.methods.structured_units import (
    Target,
    channel_target,
    kernel_target,
    layer_masks,
    strided_target,
    weight_mask,
)
from compressor.plan import PruningPlan
from compressor.shrink import shrink


class Net(nn.Module):
    """Residual sum, concatenation, depthwise convolution, activation in place, a layer used twice, flattening."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.side = nn.Conv2d(8, 6, 3, padding=1)
        self.joined = nn.Conv2d(14, 6, 3, stride=2)
        self.last_norm = nn.BatchNorm2d(6)
        self.classifier = nn.Linear(6 * 9, 4)
        for norm in (self.norm, self.last_norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.sigmoid(self.norm(self.first(x)))  # 0 does not stay 0
        y = F.relu(self.inner(x), inplace=True)
        y = self.twice(self.twice(self.mix(self.depthwise(y))))
        x += y
        x = torch.cat([x, self.side(x)], 1)
        x = F.max_pool2d(F.relu(self.last_norm(self.joined(x))), 1)
        result: Tensor = self.classifier(x.flatten(1))
        return result


class Recorder:
    """A metric that keeps the logits it was shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.seen.append(logits)
        return accuracy(logits, labels)


def data(batches: int, size: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shape = (size, 3, 8, 8)
    return [
        (torch.randn(shape, generator=generator), torch.randint(0, 4, (size,), generator=generator))
        for _ in range(batches)
    ]


def evaluator(
    model: nn.Module, targets: list[Target], graph: ChannelGraph, batches: Any, metric: Any = accuracy, **more: Any
) -> Evaluator:
    calls = [call for target in targets for call in target.calls]
    return Evaluator(model, batches, Task(F.cross_entropy, metric), searched=calls, aliases=graph.aliases, **more)


def logits_under_masks(
    model: nn.Module, targets: list[Target], graph: ChannelGraph, particles: Particles, batches: Any
) -> list[Tensor]:
    """All logits of each particle."""
    recorder = Recorder()
    own = evaluator(model, targets, graph, batches, recorder)
    own.errors(layer_masks(targets, particles))
    number = len(particles)
    parts = [recorder.seen[start : start + number] for start in range(0, len(recorder.seen), number)]
    return [torch.cat([part[place] for part in parts]) for place in range(number)]


def some_particles(target: Target, number: int, gone: int) -> Particles:
    rng = np.random.default_rng(0)
    particles = np.zeros((number, target.block.size), dtype=np.int8)
    for particle in particles:
        particle[rng.choice(target.block.size, gone, replace=False)] = rng.integers(1, target.block.ways + 1, gone)
    return particles


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Net().eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> ChannelGraph:
    return trace(model, torch.zeros(2, 3, 8, 8))


# With 200 images in a batch masks go through one by one, with 24 side by side.
@pytest.mark.parametrize("size", [24, 200])
def test_a_masked_channel_is_a_removed_channel(model: nn.Module, graph: ChannelGraph, size: int) -> None:
    free = [group for group in graph.groups if group.frozen is None]
    assert len(free) >= 3
    batches = data(2, size)
    for group in free:
        target = channel_target(graph, group, 2)
        particles = some_particles(target, 3, 2)
        for particle, logits in zip(
            particles, logits_under_masks(model, [target], graph, particles, batches), strict=True
        ):
            kept = tuple(np.flatnonzero(particle == 0).tolist())
            slim = shrink(model, graph, PruningPlan({group.name: kept}, {group.name: group.size})).eval()
            with torch.no_grad():
                wanted = torch.cat([slim(images) for images, _ in batches])
            assert torch.allclose(logits, wanted, rtol=0, atol=1e-5), group.name


@pytest.mark.parametrize("layer", ["first", "inner", "twice", "joined"])
@pytest.mark.parametrize("strided", [False, True])
def test_a_masked_kernel_is_a_kernel_of_zeros(model: nn.Module, graph: ChannelGraph, layer: str, strided: bool) -> None:
    shape = tuple(model.get_parameter(f"{layer}.weight").shape)
    if strided and shape[2] == 1:
        return
    calls = 2 if layer == "twice" else 1
    target = strided_target(layer, shape, 2) if strided else kernel_target(layer, shape, 0.5, num_calls=calls)
    particles = some_particles(target, 3, target.block.num_pruned)
    batches = data(2, 24)
    for particle, logits in zip(particles, logits_under_masks(model, [target], graph, particles, batches), strict=True):
        masked = copy.deepcopy(model)
        with torch.no_grad():
            part = particle.reshape(target.block.rows, target.block.columns)
            masked.get_parameter(f"{layer}.weight").mul_(weight_mask(target, part))
            wanted = torch.cat([masked(images) for images, _ in batches])
        assert torch.allclose(logits, wanted, rtol=0, atol=1e-5)
        assert not torch.allclose(logits, torch.cat([model(images) for images, _ in batches]), rtol=0, atol=1e-3)


def test_several_groups_at_once(model: nn.Module, graph: ChannelGraph) -> None:
    free = [group for group in graph.groups if group.frozen is None]
    targets = [channel_target(graph, group, 2) for group in free]
    particles = np.concatenate([some_particles(target, 2, 2) for target in targets], axis=1)
    batches = data(1, 24)
    for particle, logits in zip(particles, logits_under_masks(model, targets, graph, particles, batches), strict=True):
        parts = np.split(particle, np.cumsum([group.size for group in free])[:-1])
        keep = {g.name: tuple(np.flatnonzero(p == 0).tolist()) for g, p in zip(free, parts, strict=True)}
        slim = shrink(model, graph, PruningPlan(keep, {g.name: g.size for g in free})).eval()
        with torch.no_grad():
            assert torch.allclose(logits, slim(batches[0][0]), rtol=0, atol=1e-5)


def test_nothing_masked_is_the_network_itself_which_stays_as_it_is(model: nn.Module, graph: ChannelGraph) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    target = channel_target(graph, graph.group("joined"), 2)
    batches = data(3, 24)
    own = evaluator(model, [target], graph, batches)
    particles = np.concatenate([np.zeros((1, 6), dtype=np.int8), some_particles(target, 20, 3)])
    errors = own.errors(layer_masks([target], particles))
    with torch.no_grad():
        right = torch.cat([accuracy(model(images), labels) for images, labels in batches])
    assert errors[0] == pytest.approx(1 - right.mean().item(), abs=1e-12)
    assert np.array_equal(errors, own.errors(layer_masks([target], particles))), "kept values are not changed"
    assert len(set(errors.tolist())) > 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_the_masks_and_not_the_result(model: nn.Module, graph: ChannelGraph, num_ranks: int) -> None:
    target = channel_target(graph, graph.group("inner"), 2)
    own = evaluator(model, [target], graph, data(2, 60))
    masks = layer_masks([target], some_particles(target, 11, 3))
    shares = [own.errors(masks, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert np.array_equal(sum(shares), own.errors(masks))
    assert ((np.stack(shares) != 0).sum(axis=0) <= 1).all()


def test_batch_norms_may_measure_what_a_mask_leaves(model: nn.Module, graph: ChannelGraph) -> None:
    target = channel_target(graph, graph.group("side"), 2)
    particles = some_particles(target, 2, 3)
    batches = data(1, 60)
    recorder = Recorder()
    own = evaluator(model, [target], graph, batches, recorder, batch_statistics=True)
    own.errors(layer_masks([target], particles))
    for particle, logits in zip(particles, recorder.seen, strict=True):
        kept = tuple(np.flatnonzero(particle == 0).tolist())
        slim = shrink(model, graph, PruningPlan({"side": kept}, {"side": 6})).eval()
        slim.get_submodule("last_norm").train()
        with torch.no_grad():
            assert torch.allclose(logits, slim(batches[0][0]), rtol=0, atol=1e-4)  # variances by another sum


def test_a_metric_with_a_memory_sees_each_mask_alone(model: nn.Module, graph: ChannelGraph) -> None:
    class Counted:
        def reset(self) -> None:
            self.right: list[Tensor] = []

        def update(self, logits: Tensor, labels: Tensor) -> None:
            self.right.append(accuracy(logits, labels))

        def compute(self) -> Tensor:
            return torch.cat(self.right).mean()

    target = channel_target(graph, graph.group("inner"), 2)
    masks = layer_masks([target], some_particles(target, 5, 4))
    batches = data(2, 24)
    plain = evaluator(model, [target], graph, batches).errors(masks)
    assert evaluator(model, [target], graph, batches, Counted()).errors(masks) == pytest.approx(plain)


def test_a_metric_that_is_no_rate_is_refused(model: nn.Module, graph: ChannelGraph) -> None:
    target = channel_target(graph, graph.group("inner"), 2)
    own = evaluator(model, [target], graph, data(1, 24), lambda logits, labels: 30 + accuracy(logits, labels))
    with pytest.raises(MethodError, match="give a metric between 0 and 1"):
        own.errors(layer_masks([target], some_particles(target, 1, 2)))


def test_a_layer_that_is_not_there_is_named(model: nn.Module) -> None:
    with pytest.raises(MethodError, match="nowhere"):
        Evaluator(model, data(1, 24), Task(F.cross_entropy, accuracy), searched=[("nowhere.weight", 0)])
    assert LayerMask().inputs is None


class _Flattening(nn.Module):
    """Planes of several pixels, flattened by `view`, which torch refuses of images that lie channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.head(x.view(x.size(0), -1))  # type: ignore[no-any-return]


def test_a_network_may_flatten_by_view() -> None:
    model, batches = _Flattening().eval(), data(1, 24)
    own = Evaluator(model, batches, Task(F.cross_entropy, accuracy), searched=[("conv.weight", 0)])
    images, labels = batches[0]
    wrong = (model(images).argmax(1) != labels).double().mean().item()
    assert own.errors([{}])[0] == pytest.approx(wrong, abs=1e-6)


def test_batch_norms_go_into_the_convolutions_that_they_alone_read(model: nn.Module) -> None:
    program = read_program(model, torch.zeros(2, 3, 8, 8))
    constants = dict(program.parameters)
    ready = prepare(program.nodes, constants, fold=True)
    assert sum(layer.norm is not None for layer in ready.values()) == 2
    assert all(layer.norm is None for layer in prepare(program.nodes, constants, fold=False).values())
    norms = {str(node.args[0]): node.name for node in program.nodes if "batch_norm" in str(node.target)}
    assert norms == {name: layer.norm for name, layer in ready.items() if layer.norm is not None}

    x = torch.randn(2, 3, 8, 8)
    first = next(iter(ready.values()))
    assert isinstance(model, Net)
    with torch.no_grad():
        wanted = model.norm(model.first(x))
        assert torch.allclose(F.conv2d(x, first.weight, first.bias, padding=1), wanted, rtol=0, atol=1e-5)


def test_half_precision_moves_few_images_and_no_weights(model: nn.Module, graph: ChannelGraph) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    target = channel_target(graph, graph.group("inner"), 2)
    masks = layer_masks([target], some_particles(target, 6, 3))
    batches = data(2, 200)
    exact = evaluator(model, [target], graph, batches).errors(masks)
    half = evaluator(model, [target], graph, batches, bf16=True).errors(masks)
    # 8 bits of mantissa: images whose two best logits are closer than a hundredth of their size may change sides.
    assert np.abs(exact - half).max() <= 0.05
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
