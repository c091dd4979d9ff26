from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from compressor.errors import GraphError
from compressor.graph.pairs import ConvBNPair, conv_bn_pairs

X = torch.randn(2, 3, 8, 8)


class Network(nn.Module):
    """conv -> bn with a forward pass that a test chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3)
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class ConvTwice(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.conv(self.bn(self.conv(x))))


class NormTwice(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.bn(self.conv(x)))


class TwoReaders(Network):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y


class Functional(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, self.weight, padding=1))


class Computed(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, self.conv.weight * 2, padding=1))


class Unused(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.other(x)


class Branching(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x) if x.sum() > 0 else self.other(x)


def test_a_plain_pair_is_found_and_the_model_is_left_alone() -> None:
    model = Network()
    model.bn.train()
    model.conv.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pairs, reasons = conv_bn_pairs(model, X)
    assert pairs == (ConvBNPair("conv", "bn", activated=True, nonnegative_input=False),)
    assert reasons == {}
    assert model.bn.training
    assert not model.conv.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (ConvTwice(), "used more than once"),
        (NormTwice(), "batch norm bn is used more than once"),
        (TwoReaders(), "read 2 times"),
        (Computed(), "not used as it is"),
        (Unused(), "not used as it is"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_anything_else_has_a_reason(model: nn.Module, reason: str) -> None:
    pairs, reasons = conv_bn_pairs(model, X)
    assert pairs == ()
    assert reason in reasons["conv"]


def test_a_functional_convolution_has_a_reason_under_its_node() -> None:
    pairs, reasons = conv_bn_pairs(Functional(), X)
    assert pairs == ()
    assert "not the weight of a Conv2d module" in reasons["conv2d"]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("conv", "bn", "reason"),
    [
        (nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), "3 groups"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(3), "padding mode 'reflect'"),
        (nn.Conv2d(3, 3, 2, padding="same"), nn.BatchNorm2d(3), "uneven"),
        (nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), "no running statistics"),
        (nn.Conv2d(3, 3, 3), nn.SyncBatchNorm(3), "SyncBatchNorm, not BatchNorm2d"),
        (nn.Conv2d(3, 3, 3), nn.ReLU(), "goes to relu"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unfit_layers_have_a_reason(conv: nn.Module, bn: nn.Module, reason: str) -> None:
    pairs, reasons = conv_bn_pairs(nn.Sequential(conv, bn), X)
    assert pairs == ()
    assert reason in reasons["0"]


def test_shared_tensors_have_a_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[2].weight = model[0].weight
    pairs, reasons = conv_bn_pairs(model, X)
    assert pairs == ()
    assert "shares its tensors with 2" in reasons["0"]
    assert "shares its tensors with 0" in reasons["2"]


def test_padding_same_and_affine_free_norms_are_fine() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4, affine=False))
    assert [pair.conv for pair in conv_bn_pairs(model, X)[0]] == ["0"]


def test_residual_networks_know_activations_and_signs() -> None:
    pairs, reasons = conv_bn_pairs(models.build("resnet20"), torch.randn(2, 3, 32, 32))
    assert reasons == {}
    assert [pair.conv for pair in pairs if not pair.nonnegative_input] == ["stem.conv"]
    for pair in pairs:
        assert pair.activated != pair.conv.endswith(("conv2.conv", "shortcut.conv"))


@pytest.mark.parametrize(
    ("activation", "nonnegative"),
    [
        (nn.ReLU(inplace=True), True),
        (nn.ReLU6(), True),
        (nn.Sigmoid(), True),
        (nn.SiLU(), False),
        (nn.Tanh(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sign_of_an_input_is_followed_through_pooling(activation: nn.Module, nonnegative: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        activation,
        nn.MaxPool2d(2),
        nn.Dropout(),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
    )
    first, second = conv_bn_pairs(model, X)[0]
    assert first.activated
    assert not first.nonnegative_input
    assert second.nonnegative_input == nonnegative
    assert not second.activated


class _Moved(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.change(self.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "nonnegative"),
    [
        (lambda x: x + 1.0, True),
        (lambda x: 0.5 * x, True),
        (lambda x: x + x, True),
        (lambda x: x + (-1.0), False),
        (lambda x: x * -2, False),
        (lambda x: torch.add(x, x, alpha=-2), False),
        (lambda x: x.view(-1, 4, 6, 6), True),
    ],
)
def test_numbers_count_for_the_sign(change: Callable[[Tensor], Tensor], nonnegative: bool) -> None:
    _, second = conv_bn_pairs(_Moved(change), X)[0]
    assert second.nonnegative_input == nonnegative


def _sub(x: Tensor) -> Tensor:
    x.sub_(0.5)
    return x


def _sub_from_a_slice(x: Tensor) -> Tensor:
    x[:, :2].sub_(0.5)
    return x


def _sub_from_half(x: Tensor) -> Tensor:
    x.chunk(2, dim=1)[1].sub_(0.5)
    return x


def _write_into_a_slice(x: Tensor) -> Tensor:
    x[:, :2] = x[:, 2:] - 1
    return x


def _read_through_a_view_made_before(x: Tensor) -> Tensor:
    view = x.view(-1, 4, 36)
    x.sub_(0.5)
    return view.view(-1, 4, 6, 6)


def _pool_before_the_change(x: Tensor) -> Tensor:
    pooled = F.max_pool2d(x, 2)
    x.sub_(0.5)
    return pooled


def _relu_after_the_change(x: Tensor) -> Tensor:
    x[:, :2].sub_(0.5)
    return F.relu(x)


@pytest.mark.parametrize(
    ("change", "nonnegative"),
    [
        (_sub, False),
        (_sub_from_a_slice, False),
        (_sub_from_half, False),
        (_write_into_a_slice, False),
        (_read_through_a_view_made_before, False),
        (_pool_before_the_change, True),
        (_relu_after_the_change, True),
    ],
)
def test_what_is_written_in_place_counts_for_the_sign(change: Callable[[Tensor], Tensor], nonnegative: bool) -> None:
    model = _Moved(change)
    _, second = conv_bn_pairs(model, X)[0]
    assert second.nonnegative_input == nonnegative
    with torch.no_grad():
        assert bool((model.change(model.first(X)) >= 0).all()) == nonnegative


def test_a_network_that_cannot_be_exported_is_refused() -> None:
    with pytest.raises(GraphError, match=r"Branching cannot be exported with an input of shape \(2, 3, 8, 8\)"):
        conv_bn_pairs(Branching(), X)
