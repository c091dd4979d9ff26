"""Invariants 4 to 6, 9 and 12 of the specification: what a score is, what a Tick trains, how many filters there are."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from gate_networks import EXAMPLE, NETWORKS, Plain, Residual, build, graph_of
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import models
from compressor.costs.widths import count_units, planned_macs, width_costs
from compressor.errors import MethodError
from compressor.graph import ChannelGraph, trace
from compressor.methods.gate_decorator import GateDecorator

IMAGES, LABELS = EXAMPLE.double(), torch.arange(6) % 5


def backward(model: nn.Module, images: Tensor = IMAGES, labels: Tensor = LABELS) -> float:
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.item()


def scored(kind: type[nn.Module], *, training: bool = True, **settings: object) -> tuple[GateDecorator, nn.Module]:
    method = GateDecorator(**settings)
    model = method.attach_to(build(kind), graph_of(kind)).train(training)
    backward(model)
    method.after_backward(model)
    return method, model


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_04_a_score_is_what_scaling_the_gate_does_to_the_loss(kind: type[nn.Module], training: bool) -> None:
    """|f dL/df| against (L(f (1 + e)) - L(f (1 - e))) / 2 e, channel by channel."""
    method, model = scored(kind, training=training)
    step = 1e-6  # so small that hardly any ReLU changes sides
    for gate in (gate for gate in method.gates if gate.member):
        factor, own = gate.factor(model), method._totals[gate.name]
        for channel in range(0, len(factor), 3):
            losses = []
            for scale in (1 + step, 1 - step):
                trial = copy.deepcopy(model)
                with torch.no_grad():
                    gate.factor(trial)[channel] *= scale
                    losses.append(F.cross_entropy(trial(IMAGES), LABELS).item())
            slope = abs(losses[0] - losses[1]) / (2 * step)
            assert own[channel].item() == pytest.approx(slope, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("training", [False, True])
def test_04_it_is_that_of_the_plain_batch_norm(training: bool) -> None:
    method, _ = scored(Residual, training=training)
    plain = build(Residual).train(training)
    backward(plain)
    for gate in method.gates:
        bn = plain.get_submodule(gate.name)
        expected = (bn.weight * bn.weight.grad + bn.bias * bn.bias.grad).abs()
        assert torch.allclose(method._totals[gate.name], expected, atol=1e-10)


def test_05_small_gates_score_what_their_removal_costs() -> None:
    method = GateDecorator()
    model = method.attach_to(build(Residual), graph_of(Residual)).eval()
    gate = next(gate for gate in method.gates if gate.name == "inner_bn")
    with torch.no_grad():
        gate.factor(model).mul_(1e-3)
    loss = backward(model)
    method.after_backward(model)
    for channel, score in enumerate(method._totals["inner_bn"]):
        without = copy.deepcopy(model)
        with torch.no_grad():
            gate.factor(without)[channel] = 0
            cost = abs(F.cross_entropy(without(IMAGES), LABELS).item() - loss)
        assert cost == pytest.approx(score.item(), rel=0.05, abs=1e-9)


def test_05_ranks_agree_with_true_removals() -> None:
    method, model = scored(Residual, training=False)
    loss = F.cross_entropy(model(IMAGES), LABELS).item()
    scores, costs = [], []
    for gate in method.gates:
        for channel, score in enumerate(method._totals[gate.name]):
            without = copy.deepcopy(model)
            with torch.no_grad():
                gate.factor(without)[channel] = 0
                costs.append(abs(F.cross_entropy(without(IMAGES), LABELS).item() - loss))
            scores.append(score.item())
    ranks = torch.stack([torch.tensor(values).argsort().argsort().double() for values in (scores, costs)])
    assert torch.corrcoef(ranks)[0, 1] > 0.5


def test_06_the_l1_term_is_no_part_of_a_score() -> None:
    without, model = scored(Residual, l1=0.0)
    with_l1, pushed = scored(Residual, l1=0.5)
    for gate in without.gates:
        assert torch.equal(without._totals[gate.name], with_l1._totals[gate.name])
        difference = gate.factor(pushed).grad - gate.factor(model).grad
        assert torch.allclose(difference, 0.5 * gate.factor(model).sign())
    method, tick = scored(Residual, l1=0.5)
    method.begin_tick(tick)
    backward(tick)
    method.after_backward(tick)
    assert all(torch.equal(g.factor(tick).grad, g.factor(model).grad) for g in method.gates), "a Tick has no L1 term"


def test_06_scores_add_up_over_mini_batches_and_are_never_negative() -> None:
    method = GateDecorator()
    model = method.attach_to(build(Residual), graph_of(Residual)).eval()
    halves = []
    for half in (slice(0, 3), slice(3, 6)):
        alone = GateDecorator()
        model_alone = alone.attach_to(build(Residual), graph_of(Residual)).eval()
        for m, g in ((model, method), (model_alone, alone)):
            backward(m, IMAGES[half], LABELS[half])
            g.after_backward(m)
        halves.append(alone.scores(model_alone).values)
    for name, total in method.scores(model).values.items():
        assert torch.allclose(total, halves[0][name] + halves[1][name])
        assert (total >= 0).all()
    method.begin_tick(model)
    assert all(not score.any() for score in method.scores(model).values.values()), "a Tick starts from zero"


def test_06_masked_channels_score_nothing() -> None:
    method = GateDecorator()
    model = method.attach_to(build(Plain), graph_of(Plain))
    for gate in method.gates:
        gate.mask(model)[::2] = 0
    backward(model)
    method.after_backward(model)
    for gate in method.gates:
        assert not method._totals[gate.name][::2].any()
        assert method._totals[gate.name][1::2].any()


def test_members_of_a_group_are_scored_together() -> None:
    values = {}
    for how in ("sum", "mean", "max"):
        method, model = scored(Residual, group_score=how)
        values[how] = method.scores(model).values["stem"]
        own = method._totals
    members = torch.stack([own["stem_bn"], own["outer_bn"]]).float()
    assert torch.allclose(values["sum"], members.sum(0))
    assert torch.allclose(values["mean"], members.mean(0))
    assert torch.allclose(values["max"], members.amax(0))
    assert method.scores(model).values["inner"].shape == (12,)


def test_09_a_tick_freezes_convolutions_and_hidden_layers() -> None:
    for kind, trained in ((Residual, {"classifier"}), (Plain, {"last"})):
        method = GateDecorator()
        model = method.attach_to(build(kind), graph_of(kind))
        method.begin_tick(model)
        optimizer = torch.optim.SGD(method.parameters(model), lr=0.1, momentum=0.9, weight_decay=0.1)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for _ in range(2):
            backward(model)
            method.after_backward(model)
            optimizer.step()
        layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for name, value in model.state_dict().items():
            layer, _, leaf = name.rpartition(".")
            still = layer in layers and layer not in trained and leaf in ("weight", "bias")
            same = torch.equal(value, before[name])
            assert same == (still or leaf == "mask"), name
        method.begin_tock(model)
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_tick_freezes_what_a_weight_is_computed_from() -> None:
    layers: list[nn.Module] = []
    for channels in (3, 8, 8):
        layers += [nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    weight_norm(layers[6])
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    method = GateDecorator()
    model = method.attach_to(model, trace(model, torch.zeros(2, 3, 12, 12)))
    method.begin_tick(model)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    computed = {f"6.parametrizations.weight.original{number}" for number in (0, 1)}
    assert computed | {"6.bias", "3.weight"} <= frozen


def test_shifts_can_stay_in_a_tick() -> None:
    method = GateDecorator(tick_train_shift=False)
    model = method.attach_to(build(Residual), graph_of(Residual))
    method.begin_tick(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    gates = {f"{gate.name}.weight" for gate in method.gates}
    assert trained == gates | {"classifier.weight", "classifier.bias"}


def paper_network(name: str) -> tuple[nn.Module, ChannelGraph, GateDecorator]:
    model = models.build(name)
    graph = trace(model, torch.zeros(2, 3, 32, 32))
    method = GateDecorator()
    method.attach_to(model, graph)
    return model, graph, method


def macs_and_parameters(model: nn.Module, graph: ChannelGraph) -> tuple[float, int]:
    counts = count_units(graph, [True] * graph.num_units)
    return planned_macs(width_costs(graph), counts), sum(p.numel() for p in model.parameters())


def test_12_resnet56_has_2128_filters_and_one_group_per_residual_sum() -> None:
    model, graph, method = paper_network("resnet56")
    assert method.filters().sum() == 2128
    assert macs_and_parameters(model, graph) == pytest.approx((125.75e6, 0.856e6), rel=1e-3)
    units = {gate.name: tuple(gate.units.tolist()) for gate in method.gates}
    shared = [name for name in units if units[name] == units["stage2.0.shortcut.bn"]]
    assert sorted(shared) == sorted(["stage2.0.shortcut.bn", *(f"stage2.{i}.conv2.bn" for i in range(9))])
    alone = [name for name in units if name.endswith("conv1.bn")]
    assert len({units[name] for name in alone}) == len(alone) == 27


def test_12_vgg16_has_4224_filters() -> None:
    model, graph, method = paper_network("vgg16")
    assert method.filters().sum() == 4224
    assert macs_and_parameters(model, graph) == pytest.approx((313.2e6, 14.73e6), rel=2e-3)


def test_settings_out_of_range_are_all_named() -> None:
    wrong = replace(GateDecorator(), prune_fraction=1.5, l1=-1.0, group_score="median", momentum=1.0)
    with pytest.raises(MethodError, match=r"prune_fraction=1\.5 .*momentum.*l1=-1\.0 .*choose from: max, mean, sum"):
        wrong.attach(build(Residual), IMAGES[:2])
    with pytest.raises(MethodError, match="call attach"):
        GateDecorator().filters()
