import copy

import pytest
import torch
from torch import nn

from compressor.errors import MethodError
from compressor.methods.fbs import FBS, layers
from compressor.methods.fbs_half import round_predictors, round_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU()
    )
    return FBS(density=0.5).attach(plain, torch.zeros(2, 3, 8, 8)).eval()


def test_only_predictors_are_rounded_and_to_the_nearest() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    count, change = round_predictors(model)
    assert count == 3 * 8 + 8 * 6
    assert 0 < change < 2**-11
    for name, value in model.state_dict().items():
        wanted = before[name].half().float() if name.endswith("saliency_weight") else before[name]
        assert torch.equal(value, wanted), name
    assert round_predictors(model) == (count, 0.0)


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
    count, change = round_weights(model)
    assert count == 3 * 9 * 8 + 8 * 6 + 216 * 5
    assert 0 < change < 2**-11
    for rounded, layer in zip(layers(model).values(), layers(before).values(), strict=True):
        folded, wanted = rounded.fold(), layer.fold()
        assert torch.equal(folded.weight, wanted.weight.half().float())
        assert torch.equal(folded.shift, wanted.shift)
        assert torch.equal(folded.saliency_weight, wanted.saliency_weight)
    assert torch.equal(model[2].weight, before[2].weight.half().float())
    assert round_weights(model) == (count, 0.0)


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
