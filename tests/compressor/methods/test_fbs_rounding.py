import copy

import pytest
import torch
from torch import nn

from compressor.errors import MethodError
from compressor.methods.fbs import FBS, layers
from compressor.methods.fbs_rounding import (
    Rounded,
    round_predictors,
    round_predictors_to_bytes,
    round_weights,
    round_weights_to_bytes,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU()
    )
    return FBS(density=0.5).attach(plain, torch.zeros(2, 3, 8, 8)).eval()


def test_only_predictors_are_rounded_and_to_the_nearest() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    done = round_predictors(model)
    assert (done.count, done.stored_bytes) == (3 * 8 + 8 * 6, 2 * (3 * 8 + 8 * 6))
    assert 0 < done.change < 2**-11
    for name, value in model.state_dict().items():
        wanted = before[name].half().float() if name.endswith("saliency_weight") else before[name]
        assert torch.equal(value, wanted), name
    assert round_predictors(model) == Rounded(done.count, done.stored_bytes, 0.0)


def test_what_16_bits_do_not_hold_is_refused_and_nothing_changed() -> None:
    model = network()
    with torch.no_grad():
        list(layers(model).values())[-1].saliency_weight[0, 0] = 1e5
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MethodError, match="saliency weights up to 1e\\+05; allowed is 65504"):
        round_predictors(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_without_fbs_is_refused() -> None:
    with pytest.raises(MethodError, match="no FBS layers"):
        round_predictors(nn.Conv2d(3, 8, 3))


def ends_in_linear() -> nn.Module:
    model = network()
    with torch.no_grad():
        for layer in layers(model).values():
            layer.bn.running_var.uniform_(0.1, 4.0)
            layer.bn.running_mean.normal_()
    return nn.Sequential(model, nn.Flatten(), nn.Linear(6 * 6 * 6, 5)).eval()


def test_what_is_folded_are_halves_and_nothing_else_changes() -> None:
    model = ends_in_linear()
    before = copy.deepcopy(model)
    done = round_weights(model)
    count = 3 * 9 * 8 + 8 * 6 + 216 * 5
    assert (done.count, done.stored_bytes) == (count, 2 * count)
    assert 0 < done.change < 2**-11
    for rounded, layer in zip(layers(model).values(), layers(before).values(), strict=True):
        folded, wanted = rounded.fold(), layer.fold()
        assert torch.equal(folded.weight, wanted.weight.half().float())
        assert torch.equal(folded.shift, wanted.shift)
        assert torch.equal(folded.saliency_weight, wanted.saliency_weight)
    assert torch.equal(model[2].weight, before[2].weight.half().float())
    assert round_weights(model) == Rounded(count, 2 * count, 0.0)


def test_a_rounded_network_gives_nearly_the_same() -> None:
    model = ends_in_linear()
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        before = model(images)
        round_weights(model)
        after = model(images)
    assert 0 < float((after - before).abs().max()) < 1e-3 * float(before.abs().max())


def test_kernels_beyond_16_bits_are_refused_and_nothing_changed() -> None:
    model = ends_in_linear()
    with torch.no_grad():
        model[2].weight[0, 0] = 1e5
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MethodError, match="layer 2 has weights up to 1e\\+05; allowed is 65504"):
        round_weights(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_a_network_without_fbs_are_refused() -> None:
    with pytest.raises(MethodError, match="no FBS layers"):
        round_weights(nn.Linear(3, 8))


def assert_bytes(rounded: torch.Tensor, before: torch.Tensor) -> None:
    """`rounded` (K, ...): whole numbers times a step for each output, the largest 127; near what was there before."""
    rows, old = rounded.flatten(1), before.flatten(1)
    largest = rows.abs().amax(1, keepdim=True)
    step = torch.where(largest > 0, largest / 127, 1.0)
    levels = torch.round(rows / step)
    assert torch.equal(levels * step, rows)  # in float32
    assert torch.equal(levels.abs().amax(1), 127.0 * (largest[:, 0] > 0))
    mantissa, _ = torch.frexp(step)
    assert torch.equal(torch.round(mantissa * 2**10), mantissa * 2**10)
    assert bool(((rows - old).abs() <= (0.5 + 1e-5) * step).all())
    assert bool((step <= old.abs().amax(1, keepdim=True) / 127 * (1 + 2**-9) + 1.0 * (largest == 0)).all())


def test_predictors_become_bytes_with_a_step_for_each_output() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    done = round_predictors_to_bytes(model)
    assert (done.count, done.stored_bytes) == (3 * 8 + 8 * 6, 3 * 8 + 8 * 6 + 4 * (8 + 6))
    assert 0 < done.change < 1 / 250
    for name, value in model.state_dict().items():
        if name.endswith("saliency_weight"):
            assert_bytes(value.T, before[name].T)
        else:
            assert torch.equal(value, before[name]), name
    assert round_predictors_to_bytes(model) == Rounded(done.count, done.stored_bytes, 0.0)


def test_what_is_folded_and_linear_layers_are_bytes_and_nothing_else_changes() -> None:
    model = ends_in_linear()
    before = copy.deepcopy(model)
    done = round_weights_to_bytes(model)
    assert done.count == 3 * 9 * 8 + 8 * 6 + 216 * 5
    assert done.stored_bytes == 3 * 9 * 8 + 8 * 6 + 216 * 5 + 4 * (8 + 6 + 5)
    assert 0 < done.change < 1 / 250
    for rounded, layer in zip(layers(model).values(), layers(before).values(), strict=True):
        folded, wanted = rounded.fold(), layer.fold()
        assert_bytes(folded.weight, wanted.weight)
        assert torch.equal(folded.shift, wanted.shift)
        assert torch.equal(folded.saliency_weight, wanted.saliency_weight)
    assert_bytes(model[2].weight, before[2].weight)
    assert round_weights_to_bytes(model) == Rounded(done.count, done.stored_bytes, 0.0)


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-27, 1.0, 1e37])
def test_outputs_of_all_sizes_have_steps_of_their_own(size: float) -> None:
    model = network()
    weight = next(iter(layers(model).values())).saliency_weight
    with torch.no_grad():
        weight[:, 0] = 0.0
        weight[:, 1] = torch.tensor([1.0, -0.3, 0.0]) * size
    before = weight.clone()
    round_predictors_to_bytes(model)
    assert torch.equal(weight[:, 0], before[:, 0])
    if size > 1e-28:  # smaller ones are whole numbers of the smallest step, most of them 0
        assert_bytes(weight.T, before.T)
    assert bool(weight.isfinite().all())


@pytest.mark.parametrize("value", [3e38, float("inf"), float("nan")])
def test_weights_without_a_step_are_refused_and_nothing_changed(value: float) -> None:
    model = ends_in_linear()
    with torch.no_grad():
        list(layers(model).values())[-1].conv.weight[0, 0] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MethodError, match=r"weights of 8 bits: layer 0\.3 has weights up to .*; allowed is 1\.70141e"):
        round_weights_to_bytes(model)
    for name, was in before.items():
        torch.testing.assert_close(model.state_dict()[name], was, rtol=0, atol=0, equal_nan=True)


def test_bytes_of_a_network_without_fbs_are_refused() -> None:
    for rounder in (round_predictors_to_bytes, round_weights_to_bytes):
        with pytest.raises(MethodError, match="of 8 bits: the network has no FBS layers"):
            rounder(nn.Linear(3, 8))
