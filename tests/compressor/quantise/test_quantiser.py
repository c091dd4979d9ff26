from itertools import pairwise

import pytest
import torch
from torch import Tensor

from compressor.quantise import MAX_BITS, MIN_BITS, FixedPoint, dequantise, q_format, quantise, to_levels
from compressor.quantise.step import max_level, optimal_steps

BITS = range(MIN_BITS, MAX_BITS + 1)
KINDS = ("normal", "heavy tails", "uniform", "pruned", "one value", "tiny")


def weights(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(6, 5, 3, 3, generator=generator)
    return {
        "normal": normal,
        "heavy tails": normal**5,
        "uniform": torch.rand(6, 5, 3, 3, generator=generator) - 0.5,
        "pruned": normal * (torch.rand(6, 5, 3, 3, generator=generator) < 0.3),
        "one value": torch.full((6, 5, 3, 3), -0.7),
        "tiny": normal * 1e-20,
    }[kind]


def error(weight: Tensor, fixed: FixedPoint) -> float:
    return float((dequantise(fixed).double() - weight.double()).square().sum())


def with_step(weight: Tensor, step: float, bits: int) -> FixedPoint:
    value = torch.tensor(step, dtype=torch.float32)
    return FixedPoint(to_levels(weight, value, bits, None), value, bits)


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", BITS)
def test_9_levels_are_few_symmetric_and_idempotent(kind: str, bits: int, axis: int | None) -> None:
    weight = weights(kind)
    fixed = quantise(weight, bits, axis=axis)
    assert fixed.levels.dtype == torch.int8
    assert int(fixed.levels.abs().max()) <= 2 ** (bits - 1) - 1
    values = dequantise(fixed)
    assert torch.equal(values[weight == 0], torch.zeros(int((weight == 0).sum())))
    assert torch.equal(to_levels(values, fixed.step, bits, axis), fixed.levels)
    mirrored = quantise(-weight, bits, axis=axis)
    assert torch.equal(mirrored.step, fixed.step)
    assert torch.equal(mirrored.levels, -fixed.levels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", BITS)
def test_error_is_at_most_half_a_step_inside_the_range(kind: str, bits: int) -> None:
    weight = weights(kind)
    fixed = quantise(weight, bits)
    step, h = float(fixed.step), max_level(bits)
    inside = weight.abs() <= (h + 0.5) * step
    slack = 1 + 1e-6  # float32
    assert ((dequantise(fixed) - weight).abs()[inside] <= 0.5 * step * slack).all()
    assert (dequantise(fixed)[~inside].abs() == h * fixed.step).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", BITS)
def test_9_step_is_stationary(kind: str, bits: int) -> None:
    weight = weights(kind)
    fixed = quantise(weight, bits)
    z = fixed.levels.double().abs()
    turned = float((weight.double().abs() * z).sum() / z.square().sum())
    assert turned == pytest.approx(float(fixed.step), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_9_error_falls_with_every_bit(kind: str) -> None:
    weight = weights(kind)
    errors = [error(weight, quantise(weight, bits)) for bits in BITS]
    # One value is met exactly at 2 bits already; what remains there is float32's own rounding.
    floor = 1e-12 * float(weight.double().square().sum())
    assert all(later <= sooner + floor for sooner, later in pairwise(errors))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", BITS)
def test_step_is_as_good_as_max_abs_and_as_a_grid(kind: str, bits: int) -> None:
    weight = weights(kind)
    found = error(weight, quantise(weight, bits))
    widest = float(weight.abs().max()) / max_level(bits)
    floor = 1e-12 * float(weight.double().square().sum())
    assert found <= error(weight, with_step(weight, widest, bits)) + floor
    grid = min(error(weight, with_step(weight, widest * (index + 1) / 400, bits)) for index in range(400))
    assert found <= 1.005 * grid + floor  # a grid this fine can hit another valley of the same depth


def test_max_abs_is_much_worse_with_few_bits() -> None:
    weight = weights("normal")
    widest = float(weight.abs().max()) / max_level(2)
    assert error(weight, quantise(weight, 2)) < 0.5 * error(weight, with_step(weight, widest, 2))


@pytest.mark.parametrize("bits", BITS)
def test_zeros_do_not_move_the_step(bits: int) -> None:
    weight = weights("pruned")
    live = weight[weight != 0]
    assert torch.equal(quantise(weight, bits).step, quantise(live, bits).step)


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_channels_are_quantised_as_if_alone(axis: int) -> None:
    weight = weights("normal")
    fixed = quantise(weight, 4, axis=axis)
    assert fixed.step.shape == (weight.shape[axis],)
    for place in range(weight.shape[axis]):
        alone = quantise(weight.select(axis, place), 4)
        assert torch.equal(alone.step, fixed.step[place])
        assert torch.equal(alone.levels, fixed.levels.select(axis, place))
    assert error(weight, fixed) <= error(weight, quantise(weight, 4))


@pytest.mark.parametrize("bits", BITS)
def test_power_of_two_steps_are_the_best_of_their_kind(bits: int) -> None:
    weight = weights("normal")
    fixed = quantise(weight, bits, pow2=True)
    exponent = torch.log2(fixed.step)
    assert exponent == exponent.round()
    others = [error(weight, with_step(weight, 2.0**n, bits)) for n in range(-20, 6)]
    assert error(weight, fixed) == min(others)
    assert error(weight, fixed) >= error(weight, quantise(weight, bits))


def test_q_format_names_the_bits_on_both_sides_of_the_point() -> None:
    levels = torch.zeros(2, 1, dtype=torch.int8)
    assert q_format(FixedPoint(levels, torch.tensor(2.0**-5), 8)) == "Q2.5"
    assert q_format(FixedPoint(levels, torch.tensor(2.0**-9), 4)) == "Q-6.9"
    assert q_format(FixedPoint(levels, torch.tensor([0.25, 0.0625]), 8, 0)) == "Q5.2 to Q3.4"
    assert q_format(FixedPoint(levels, torch.tensor(0.3), 8)) is None


def test_nothing_live_has_a_step_all_the_same() -> None:
    weight = weights("normal")
    weight[2] = 0
    fixed = quantise(weight, 4, axis=0)
    assert fixed.step[2] == 1.0
    assert not fixed.levels[2].any()
    assert optimal_steps(torch.zeros(1, 4), 4).tolist() == [1.0]


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_other_word_lengths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"{bits} bits; fixed-point weights have 2 to 8"):
        quantise(torch.ones(2), bits)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantise(torch.tensor([1.0, float("nan")]), 4)
