"""RBP (reconstruction) as a method: the mean network, folding, the rates' movement under the divergence alone."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import trace
from compressor.graph.narrow import narrowed
from compressor.methods.rbp import RBP
from compressor.methods.rbp_layer import ChannelNoise, find_noise, fold_noise
from compressor.methods.rbp_steering import Pressure, Steering
from compressor.pipeline.stages import plan_of
from compressor.shrink import shrink

EXAMPLE = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
# Sums of products in another order; the values are around 1.
ROUNDING = 1e-5


def network() -> nn.Module:
    """Convolutions with batch norm and ReLU, a grouped one, a transposed one, a flatten."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 6, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    with torch.no_grad():
        for _ in range(5):
            model(EXAMPLE)  # statistics of its own
    return model.eval()


def noisy(model: nn.Module, *, logit: float, rbp: RBP | None = None) -> nn.Module:
    attached = (rbp or RBP()).attach(model, EXAMPLE).eval()
    with torch.no_grad():
        for noise in find_noise(attached):
            noise.logits.fill_(logit)
    return attached


def test_01_without_noise_nothing_changes() -> None:
    model = network()
    with torch.no_grad():
        dense = model(EXAMPLE)
        assert torch.equal(noisy(model, logit=-math.inf)(EXAMPLE), dense)
        least = noisy(model, logit=torch.tensor(1e-4).logit().item()).train()
        for module in least.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        samples = torch.stack([least(EXAMPLE) for _ in range(200)])
    # Standard deviation 0.01 of every factor.
    assert (samples[0] - dense).abs().max() < 0.1 * dense.abs().max()
    assert (samples.mean(0) - dense).abs().max() < 0.2 * (samples[0] - dense).abs().max()
    assert not torch.equal(samples[0], samples[1])


def test_one_number_per_example_and_channel_shared_by_all_readers_and_pixels() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            for layer in (self.a, self.b):
                nn.init.eye_(layer.weight.data[:, :, 0, 0])
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            nn.init.zeros_(self.first.weight)
            nn.init.ones_(self.first.bias)  # type: ignore[arg-type]

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x))
            return torch.cat([self.a(x), self.b(x)], 1)

    model = RBP(rate_init=0.5).attach(Two(), torch.zeros(2, 1, 3, 3)).train()
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = (model(torch.zeros(2, 1, 3, 3)) for _ in range(2))
    assert torch.equal(first[:, :4], first[:, 4:]), "both readers see one draw"
    assert (first == first[:, :, :1, :1]).all(), "all pixels see one draw"
    values = first[:, :4, 0, 0].flatten()
    assert len(values.unique()) == 8, "examples and channels draw for themselves"
    assert not torch.equal(first, second)


def test_07_folded_and_shrunk_equals_the_mean_network() -> None:
    model = network()
    graph = trace(model, EXAMPLE)
    rbp = RBP()
    attached = rbp.attach(model, EXAMPLE).eval()
    keep = narrowed_keep = torch.ones(graph.num_units, dtype=torch.bool).numpy()
    generator = torch.Generator().manual_seed(1)
    for noise in find_noise(attached):
        group = graph.group(noise.group)
        with torch.no_grad():
            noise.logits.copy_(torch.randn(group.size, generator=generator))
            noise.logits[::2] = math.inf  # t = 0
        keep[group.start : group.start + group.size : 2] = False
    assert sum(1 for _ in find_noise(attached)) == 4
    with torch.no_grad():
        mean = attached(EXAMPLE)
        folded = fold_noise(attached)
        assert (folded(EXAMPLE) - mean).abs().max() <= ROUNDING * mean.abs().max()
        slim = shrink(folded, graph, plan_of(graph, keep))
        assert (slim(EXAMPLE) - mean).abs().max() <= ROUNDING * mean.abs().max()
    assert [name for name, _ in slim.named_modules()] == [name for name, _ in model.named_modules()]
    assert slim.state_dict().keys() == model.state_dict().keys()
    assert not [module for module in slim.modules() if module._forward_pre_hooks]
    assert narrowed(graph, narrowed_keep).shapes == {n: tuple(p.shape) for n, p in slim.named_parameters()}


def pulled(rbp: RBP, steps: int) -> Tensor:
    """Rates after steps with the divergence alone."""
    model = rbp.attach(network(), EXAMPLE)
    for _ in range(steps):
        penalty = rbp.penalty(model)
        assert penalty is not None
        penalty.backward()
        rbp.after_backward(model)
        rbp.after_step(model)
    return torch.cat([noise.rates.detach() for noise in find_noise(model)])


@pytest.mark.parametrize("prior", ["dirac", "same-law", "bernoulli"])
def test_04_without_data_rates_come_to_rest_where_the_prior_says(prior: str) -> None:
    rbp = RBP(prior=prior, lam=3.0, rate_lr=0.1)  # type: ignore[arg-type]
    assert torch.allclose(pulled(rbp, 400), torch.tensor(rbp.pull.resting_rate), atol=2e-3)


def test_04_without_divergence_a_useful_channel_does_not_drift_up() -> None:
    rbp, model = RBP(rate_lr=0.05), network()
    with torch.no_grad():
        target = model(EXAMPLE)
    *_, last = rbp.steps(model, trace(model, EXAMPLE))[0]  # every map is read by the classifier
    attached = rbp.attach_to(model, (last,))
    attached.get_submodule("11.noise").train()
    for _ in range(100):
        loss = F.mse_loss(attached(EXAMPLE), target)
        attached.zero_grad()
        loss.backward()
        rbp.after_backward(attached)
        rbp.after_step(attached)
    (noise,) = find_noise(attached)
    assert (noise.rates <= 0.05 + 1e-4).all()
    assert (noise.rates < 0.01).sum() >= 3


def test_rates_move_by_adam_alone() -> None:
    rbp = RBP()
    model = rbp.attach(network(), EXAMPLE)
    noise = next(find_noise(model))
    twin = copy.deepcopy(noise.logits.detach()).requires_grad_()
    adam = torch.optim.Adam([twin], lr=1e-2, betas=(0.9, 0.99), eps=1e-12)
    optimizer = torch.optim.SGD(rbp.parameters(model), lr=0.1, weight_decay=1e-2)
    for step in range(5):
        gradient = torch.randn(len(twin), generator=torch.Generator().manual_seed(step))
        for other in find_noise(model):
            other.logits.grad = torch.zeros_like(other.logits)
        noise.logits.grad = gradient.clone()
        twin.grad = gradient.clone()
        rbp.after_backward(model)
        optimizer.step()
        rbp.after_step(model)
        adam.step()
    assert torch.allclose(noise.logits.detach(), twin.detach(), atol=1e-6)


def test_only_the_readers_train_where_asked() -> None:
    rbp = RBP(all_weights=False)
    model = network()
    (step, *_), _ = rbp.steps(model, trace(model, EXAMPLE))
    attached = rbp.attach_to(model, (step,))
    trained = {name for name, parameter in attached.named_parameters() if parameter.requires_grad}
    assert trained == {"3.weight", "3.bias", "3.noise.noise.logits"}


def test_steering_brings_lambda_up_and_down() -> None:
    pressure = Pressure()
    steering = Steering(steps=100, samples=1000, cost=lambda kept: kept["g"], start=10.0, none=0.0, goal=5.0)
    steering.update(pressure, kept={"g": 10.0}, data_pull=1e-3)
    assert 0 < float(pressure.lam) < 1.0  # 1 / 20 of the ramp
    for _ in range(69):
        steering.update(pressure, kept={"g": 10.0}, data_pull=9.0)
    behind = float(pressure.lam)
    for _ in range(30):
        steering.update(pressure, kept={"g": 2.0}, data_pull=9.0)
    ahead = float(pressure.lam)
    assert behind > 100 * ahead > 0
    constant = Steering(steps=100, samples=1000, lam=7.0)
    pressure = Pressure()
    lams = []
    for _ in range(30):
        constant.update(pressure, kept={}, data_pull=0.0)
        lams.append(float(pressure.lam))
    assert lams[:2] == pytest.approx([7 / 20, 14 / 20])
    assert set(lams[20:]) == {7.0}


def test_scores_are_keep_probabilities() -> None:
    rbp = RBP(rate_init=0.2)
    model = rbp.attach(network(), EXAMPLE)
    assert {name: len(values) for name, values in rbp.scores(model).values.items()} == {
        noise.group: len(noise.logits) for noise in find_noise(model)
    }
    assert all(torch.allclose(values, torch.tensor(0.8)) for values in rbp.scores(model).values.values())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rate_init": 0.0}, "rate_init=0.0 is not in"),
        ({"threshold": 0.01}, r"rate_init=0.05 is not in \[0.0001, threshold\)"),
        ({"prior": "laplace"}, "choose from: dirac, same-law, bernoulli"),
        ({"prior_variance": 0.2}, "nothing gets past threshold=0.9; take a smaller prior_variance"),
        ({"layer_epochs": 0, "lam": -1.0}, "layer_epochs=0 is below 1; lam=-1.0 is below 0"),
        ({"min_keep": 1.0}, r"min_keep=1.0 is not in \[0, 1\)"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict, text: str) -> None:
    with pytest.raises(MethodError, match=rf"^RBP \(reconstruction\): .*{text}"):
        RBP(**settings).attach(network(), EXAMPLE)


def test_noise_keeps_no_gradient_for_others() -> None:
    rbp = RBP()
    model = rbp.attach(network(), EXAMPLE).train()
    model(EXAMPLE).square().mean().backward()
    rbp.after_backward(model)
    noises = [module for module in model.modules() if isinstance(module, ChannelNoise)]
    assert all(noise.logits.grad is None and noise.gradient.abs().sum() > 0 for noise in noises)
