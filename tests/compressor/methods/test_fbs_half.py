import copy

import pytest
import torch
from torch import nn

from compressor.errors import MethodError
from compressor.methods.fbs import FBS, layers
from compressor.methods.fbs_half import round_predictors


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
