"""What every method keeps to; a new file in the folder is tested without being named here."""

import copy

import pytest
import torch
from torch import Tensor, nn

from compressor import methods
from compressor.errors import MethodError
from compressor.methods.base import Method, Scores

EXAMPLE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def loss_of(method: Method, model: nn.Module) -> Tensor:
    loss = nn.functional.cross_entropy(model(EXAMPLE), torch.arange(4))
    penalty = method.penalty(model)
    return loss if penalty is None else loss + penalty


@pytest.mark.parametrize("name", methods.names())
def test_settings_are_plain_and_make_an_equal_method(name: str) -> None:
    method = methods.get(name)()
    assert type(method)(**method.settings()) == method
    assert all(isinstance(value, str | int | float | bool | None) for value in method.settings().values())


@pytest.mark.parametrize("name", methods.names())
def test_attach_leaves_its_input_and_trains(name: str) -> None:
    method, dense = methods.get(name)(), network()
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    model = method.attach(dense, EXAMPLE)
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    optimizer = torch.optim.SGD(method.parameters(model) or model.parameters(), lr=0.01, weight_decay=1e-4)
    model.train()
    losses = []
    for _ in range(40):
        loss = loss_of(method, model)
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(model)
        optimizer.step()
        method.after_step(model)
        losses.append(loss.item())
    # Means: a method may add noise.
    assert sum(losses[-20:]) < sum(losses[:20])


@pytest.mark.parametrize("name", methods.names())
def test_a_method_groups_every_parameter_once(name: str) -> None:
    method = methods.get(name)()
    model = method.attach(network(), EXAMPLE)
    groups = method.parameters(model)
    if groups is not None:
        grouped = sorted(id(parameter) for group in groups for parameter in group["params"])
        assert grouped == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("name", methods.names())
def test_a_trained_network_can_be_copied_and_described(name: str) -> None:
    method = methods.get(name)()
    model = method.attach(network(), EXAMPLE).train()
    loss_of(method, model)
    twin = copy.deepcopy(model).eval()
    model.eval()
    with torch.no_grad():
        assert torch.equal(twin(EXAMPLE), model(EXAMPLE))
    assert isinstance(method.scores(model), Scores)
    assert all(isinstance(key, str) for key in method.detach(model))


def test_hooks_of_the_base_do_nothing() -> None:
    method, model = Method(), network()
    assert method.attach(model, EXAMPLE) is model
    assert method.penalty(model) is None
    assert method.parameters(model) is None
    assert not method.scores(model).values
    assert not method.detach(model)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(MethodError, match=r"unknown method 'fsb'; choose from: .*fbs"):
        methods.get("fsb")


def test_parts_of_a_method_are_not_methods() -> None:
    assert "fbs" in methods.names()
    assert not [name for name in methods.names() if name.startswith("fbs-") or name == "base"]
