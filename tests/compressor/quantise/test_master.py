import copy

import pytest
import torch
from torch import Tensor, nn

from compressor.quantise import (
    FixedPoint,
    Scheme,
    dequantise,
    keep_masters,
    kernel_names,
    quantise_all,
    release_masters,
    to_levels,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[0].weight[1, 0] = 0.0
        net[0].weight[2, :, 0, 0] = 0.0
    return net


def prepared(scheme: Scheme | None = None) -> tuple[nn.Module, dict[str, FixedPoint]]:
    net = network()
    names = dict.fromkeys(kernel_names(net), 3)
    fixed = quantise_all(dict(net.named_parameters()), names, scheme or Scheme())
    keep_masters(net, fixed)
    return net, fixed


def batch() -> Tensor:
    return torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def test_kernels_are_found_and_nothing_else() -> None:
    assert kernel_names(network()) == ["0.weight", "4.weight"]
    assert kernel_names(nn.Conv2d(1, 1, 1)) == ["weight"]
    assert kernel_names(nn.Sequential(nn.ConvTranspose2d(1, 1, 1), nn.BatchNorm2d(1))) == []


def test_forward_is_that_of_the_quantised_network_and_the_float_one_is_kept() -> None:
    plain = network().eval()
    before = plain[0].weight.detach().clone()
    net, fixed = prepared()
    with torch.no_grad():
        for name, values in fixed.items():
            plain.get_parameter(name).copy_(dequantise(values))
        assert torch.equal(net.eval()(batch()), plain(batch()))
    assert torch.equal(net[0].parametrizations.weight.original, before)


def test_gradient_goes_straight_through_to_live_weights() -> None:
    net, fixed = prepared()
    twin = network()
    with torch.no_grad():
        for name, values in fixed.items():
            twin.get_parameter(name).copy_(dequantise(values))
    net(batch()).square().sum().backward()
    twin(batch()).square().sum().backward()
    live = network()[0].weight != 0
    gradient = net[0].parametrizations.weight.original.grad
    assert torch.equal(gradient[live], twin[0].weight.grad[live])
    assert not gradient[~live].any()


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(per_channel=True, pow2=True)])
def test_5_pruned_weights_stay_zero_through_momentum_and_decay(scheme: Scheme) -> None:
    net, fixed = prepared(scheme)
    pruned = network()[0].weight == 0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for _ in range(5):
        optimizer.zero_grad()
        net(batch()).square().sum().backward()
        optimizer.step()
        assert not net[0].weight[pruned].any()
    moved = release_masters(net, list(fixed))
    assert kernel_names(net) == ["0.weight", "4.weight"]
    assert not net[0].weight[pruned].any()
    for name, values in moved.items():
        assert torch.equal(net.get_parameter(name), dequantise(values))
        assert torch.equal(to_levels(dequantise(values), values.step, values.bits, values.axis), values.levels)
        assert torch.equal(values.step, fixed[name].step)  # steps stay what they were chosen to be
    assert any(not torch.equal(moved[name].levels, fixed[name].levels) for name in moved)


def test_nothing_trained_gives_the_same_words_back() -> None:
    net, fixed = prepared()
    released = release_masters(net, list(fixed))
    assert all(torch.equal(released[name].levels, fixed[name].levels) for name in fixed)


def test_copies_and_state_go_on_where_the_network_stands() -> None:
    net, _ = prepared()
    other, _ = prepared()
    with torch.no_grad():
        other[0].parametrizations.weight.original.add_(1.0)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(batch()), net.eval()(batch()))
    assert torch.equal(copy.deepcopy(net)(batch()), net(batch()))
