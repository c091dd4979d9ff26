"""Invariants 1 to 3 of the specification: conversion and folding change nothing, masked is as good as cut."""

import copy

import numpy as np
import pytest
import torch
from gate_networks import EXAMPLE, NETWORKS, Plain, PreActivation, Residual, build, graph_of
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import ChannelGraph, trace
from compressor.graph.cut import Keep
from compressor.methods.gate_decorator_convert import add_gates, find_gates, fold_gates, set_masks
from compressor.methods.gate_decorator_layer import GatedBatchNorm, gated
from compressor.plan import PruningPlan
from compressor.shrink import shrink

IMAGES = EXAMPLE.double()
# Double precision; the products are taken in another order.
TOLERANCE = 1e-10


def outputs(model: nn.Module, *, training: bool = False) -> Tensor:
    with torch.no_grad():
        return model.train(training)(IMAGES)


def pruned(graph: ChannelGraph, *, seed: int) -> tuple[Keep, PruningPlan]:
    """A third of the units of every group that may be cut, at random."""
    random = np.random.default_rng(seed)
    keep, kept = np.ones(graph.num_units, dtype=bool), {}
    for group in graph.groups:
        if group.frozen is None:
            stays = np.sort(random.permutation(group.size)[group.size // 3 :])
            keep[group.start : group.start + group.size] = False
            keep[group.start + stays] = True
            kept[group.name] = tuple(stays.tolist())
    return keep, PruningPlan(kept, {name: graph.group(name).size for name in kept})


def given_own_gates(model: nn.Module) -> nn.Module:
    """Gates of bare layers start at 1; other values must fold away as well."""
    for layer in model.modules():
        if gated(layer):
            nn.init.uniform_(layer.gate, 0.5, 1.5)
    return model


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_gates_change_nothing(kind: type[nn.Module], training: bool) -> None:
    model = build(kind)
    gates = find_gates(model, graph_of(type(model)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with_gates = add_gates(model, gates)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    plain = copy.deepcopy(model)
    assert torch.allclose(outputs(with_gates, training=training), outputs(plain, training=training), atol=TOLERANCE)
    statistics = [name for name in before if "running" in name or "num_batches" in name]
    assert all(torch.allclose(with_gates.state_dict()[n], plain.state_dict()[n]) for n in statistics)


@pytest.mark.parametrize("kind", NETWORKS)
def test_folding_brings_the_plain_network_back(kind: type[nn.Module]) -> None:
    model = build(kind)
    with_gates = given_own_gates(add_gates(model, find_gates(model, graph_of(type(model)))))
    folded = fold_gates(with_gates)
    assert [type(m) for m in folded.modules()] == [type(m) for m in model.modules()]
    assert list(folded.state_dict()) == list(model.state_dict())
    assert not any(module._forward_hooks for module in folded.modules())
    for training in (False, True):
        assert torch.allclose(outputs(folded, training=training), outputs(with_gates, training=training), atol=1e-9)
    again = fold_gates(folded)
    assert all(torch.equal(value, folded.state_dict()[name]) for name, value in again.state_dict().items())


def test_an_unpruned_network_folds_to_what_it_was() -> None:
    model = build(Residual)
    folded = fold_gates(add_gates(model, find_gates(model, graph_of(type(model)))))
    for name, value in model.state_dict().items():
        assert torch.allclose(folded.state_dict()[name], value, atol=TOLERANCE), name


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_masked_network_is_the_shrunk_one(kind: type[nn.Module], seed: int) -> None:
    model = build(kind, seed=seed)
    graph = graph_of(type(model))
    gates = find_gates(model, graph)
    masked = given_own_gates(add_gates(model, gates))
    keep, plan = pruned(graph, seed=seed)
    set_masks(masked, gates, keep)
    folded = fold_gates(masked)
    slim = shrink(folded, graph, plan)
    assert sum(p.numel() for p in slim.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    assert torch.allclose(outputs(masked), outputs(folded), atol=TOLERANCE)
    assert torch.allclose(outputs(masked), outputs(slim), atol=TOLERANCE)
    assert not torch.allclose(outputs(masked), outputs(model), atol=1e-2)


def test_a_mask_is_never_taken_back() -> None:
    model = build(Residual)
    graph = graph_of(type(model))
    gates = find_gates(model, graph)
    masked = add_gates(model, gates)
    keep, _ = pruned(graph, seed=0)
    set_masks(masked, gates, keep)
    by_name = {gate.name: gate.mask(masked) for gate in gates}
    assert torch.equal(by_name["stem_bn"], by_name["outer_bn"]), "members of a group share their mask"
    assert torch.equal(by_name["wide_bn"], by_name["short_bn"])
    before = [gate.mask(masked).clone() for gate in gates]
    set_masks(masked, gates, np.ones_like(keep))
    assert all(torch.equal(gate.mask(masked), mask) for gate, mask in zip(gates, before, strict=True))


def test_gates_sit_where_the_filters_end() -> None:
    def places(kind: type[nn.Module]) -> dict[str, bool]:
        model = build(kind)
        return {gate.name: gate.member for gate in find_gates(model, graph_of(type(model)))}

    assert places(Residual) == dict.fromkeys(("stem_bn", "inner_bn", "outer_bn", "wide_bn", "short_bn"), True)
    assert places(Plain) == {"first": True, "second": True, "hidden": True}
    # Batch norms that read a sum or a concatenation are silenced with their channels but belong to no filter.
    assert places(PreActivation) == {
        "stem": True, "bn1": False, "conv1": True, "bn2": False, "conv2": True, "bn3": False,
    }  # fmt: skip


def test_without_batch_norm_the_gate_multiplies_bias_and_all() -> None:
    model = build(Plain)
    with_gates = add_gates(model, find_gates(model, graph_of(type(model))))
    with torch.no_grad():
        with_gates.first.gate.fill_(-2.0)
        assert torch.allclose(with_gates.first(IMAGES), -2.0 * model.first(IMAGES))


def test_dead_channels_and_wild_shifts_stay_finite() -> None:
    bn = nn.BatchNorm2d(4)
    with torch.no_grad():
        bn.weight.copy_(torch.tensor([0.0, 1e-12, 0.01, -0.5]))
        bn.bias.copy_(torch.tensor([0.0, 3.0, 1.0, 0.25]))
    gate = GatedBatchNorm(bn)
    assert gate.weight.tolist() == pytest.approx([0.0, 0.0, 0.01, -0.5])
    assert gate.bias.tolist() == pytest.approx([0.0, 0.0, 10.0, -0.5])  # 1 / 0.01 is clipped


def test_a_network_without_a_place_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).double()
    with pytest.raises(MethodError, match="can carry a gate"):
        find_gates(model, trace(model, IMAGES[:2]))
