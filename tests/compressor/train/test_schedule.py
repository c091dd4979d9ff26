import pytest
from torch import nn

from compressor.train.schedule import lr_factor, parameter_groups
from compressor.train.settings import TrainSettings


@pytest.mark.parametrize("total_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.2, 1.0])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(total_steps: int, warmup_fraction: float) -> None:
    factors = [lr_factor(step, total_steps=total_steps, warmup_fraction=warmup_fraction) for step in range(total_steps)]
    warmup_steps = round(total_steps * warmup_fraction)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[:warmup_steps] == sorted(factors[:warmup_steps])
    assert factors[warmup_steps:] == sorted(factors[warmup_steps:], reverse=True)
    if warmup_steps:
        assert factors[warmup_steps - 1] == 1.0
    if warmup_steps < total_steps:
        assert factors[-1] == pytest.approx(0.0)


def test_kernels_decay_and_batch_norms_and_biases_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decaying, others = parameter_groups(model, TrainSettings(weight_decay=0.1))
    assert {id(parameter) for parameter in decaying["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(decaying["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_what_needs_no_gradient_is_left_out() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    (only,) = parameter_groups(model, TrainSettings())
    assert only["params"] == [model.bias]


@pytest.mark.parametrize("total_steps", [2, 6, 40])
def test_a_triangle_goes_up_to_the_middle_and_down_again(total_steps: int) -> None:
    def rate(step: int) -> float:
        return lr_factor(step, total_steps=total_steps, schedule="triangular", lowest=0.1)

    factors = [rate(step) for step in range(total_steps)]
    assert (factors[0], factors[total_steps // 2]) == pytest.approx((0.1, 1.0))
    assert factors[: total_steps // 2] == sorted(factors[: total_steps // 2])
    assert factors[total_steps // 2 :] == sorted(factors[total_steps // 2 :], reverse=True)
    one_step = 0.9 * 2 / total_steps
    assert factors[-1] == pytest.approx(0.1 + one_step)


def test_a_constant_rate_is_constant() -> None:
    assert {lr_factor(step, total_steps=7, warmup_fraction=0.5, schedule="constant") for step in range(7)} == {1.0}


def test_what_runs_were_begun_with_is_still_the_default() -> None:
    """A state written before these fields were there goes on as it was."""
    settings = TrainSettings()
    assert (settings.schedule, settings.nesterov, settings.epoch_images) == ("cosine", True, 0)
