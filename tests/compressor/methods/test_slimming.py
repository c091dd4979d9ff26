import pytest
import torch
import torch.nn.functional as F
from gate_networks import EXAMPLE, Plain, PreActivation, Residual, build
from torch import nn

from compressor.errors import MethodError
from compressor.methods.slimming import Slimming

IMAGES, LABELS = EXAMPLE.double(), torch.arange(6) % 5


def test_scores_are_the_summed_scales_of_a_group() -> None:
    model, method = build(Residual), Slimming()
    assert method.attach(model, IMAGES[:2]) is model
    scores = method.scores(model).values
    assert torch.allclose(scores["inner"], model.inner_bn.weight.abs().float())
    assert torch.allclose(scores["stem"], (model.stem_bn.weight.abs() + model.outer_bn.weight.abs()).float())
    concatenated = build(PreActivation)
    method.attach(concatenated, IMAGES[:2])
    scales = concatenated.bn3.weight.abs().float()
    assert torch.allclose(method.scores(concatenated).values["conv2"], scales[8:])


def test_the_penalty_is_the_subgradient_of_l1() -> None:
    grads = []
    for l1 in (0.0, 0.25):
        model, method = build(Residual), Slimming(l1=l1)
        with torch.no_grad():
            model.inner_bn.weight[0] = 0.0
        method.attach(model, IMAGES[:2])
        F.cross_entropy(model(IMAGES), LABELS).backward()
        method.after_backward(model)
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[1].items():
        is_scale = name.endswith("_bn.weight")
        expected = 0.25 * model.get_parameter(name).sign() if is_scale else torch.zeros((), dtype=grad.dtype)
        assert torch.allclose(grad - grads[0][name], expected.expand_as(grad)), name
    assert grads[1]["inner_bn.weight"][0] == grads[0]["inner_bn.weight"][0], "at 0 the subgradient is 0"


def test_training_under_it_makes_scales_small() -> None:
    means = []
    for l1 in (0.0, 0.05):
        model, method = build(Residual), Slimming(l1=l1)
        method.attach(model, IMAGES[:2])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(model(IMAGES), LABELS).backward()
            method.after_backward(model)
            optimizer.step()
        means.append(model.inner_bn.weight.abs().mean().item())
    assert means[1] < 0.97 * means[0]


def test_what_cannot_be_slimmed_is_refused() -> None:
    with pytest.raises(MethodError, match="no batch norm of Plain"):
        Slimming().attach(build(Plain), IMAGES[:2])
    with pytest.raises(MethodError, match="call attach"):
        Slimming().scores(nn.Linear(2, 2))
    with pytest.raises(MethodError, match=r"l1=-1\.0 is below 0"):
        Slimming(l1=-1.0).attach(build(Residual), IMAGES[:2])
