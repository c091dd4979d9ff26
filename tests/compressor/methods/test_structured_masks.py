"""Positions that strides leave, and what a search's units stand for."""

import math

import numpy as np
import pytest
import torch

from compressor.methods.structured_masks import keep_positions, patterns
from compressor.methods.structured_units import kernel_target, strided_target, weight_mask, with_losses


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_offsets_share_out_a_kernel(side: int, stride: int) -> None:
    parts = [keep_positions(side * side, stride, offset) for offset in range(stride)]
    assert [part.sum() for part in parts] == [math.ceil((side * side - offset) / stride) for offset in range(stride)]
    assert (np.sum(parts, axis=0) == 1).all(), "each position belongs to one offset"


def test_an_offset_lies_below_its_stride() -> None:
    with pytest.raises(ValueError, match="offset 2 with stride 2"):
        keep_positions(9, 2, 2)


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 3), (5, 5), (2, 4)])
@pytest.mark.parametrize("per_axis", [False, True])
def test_patterns_are_different_and_not_empty(kernel: tuple[int, int], per_axis: bool) -> None:
    ways = patterns(kernel, 3, per_axis=per_axis)
    assert ways.any(axis=1).all()
    assert len({way.tobytes() for way in ways}) == len(ways)
    assert (ways.sum(axis=0) == 1).all()


def test_odd_kernels_with_stride_two_are_checkerboards() -> None:
    even, odd = patterns((3, 3), 2, per_axis=False).reshape(2, 3, 3).astype(int)
    assert even.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert (even + odd == 1).all()


def test_units_of_a_layer() -> None:
    kernels = kernel_target("conv", (8, 4, 3, 3), 0.5)
    assert (kernels.block.rows, kernels.block.columns, kernels.block.num_pruned) == (8, 4, 16)
    assert kernel_target("conv", (8, 4, 3, 3), 0.01).block.num_pruned == 24, "one kernel of each output map stays"
    part = np.zeros((8, 4), dtype=np.int8)
    part[2, 1] = 1
    mask = weight_mask(kernels, part).expand(8, 4, 3, 3)
    assert not mask[2, 1].any()
    assert mask.sum() == 31 * 9


@pytest.mark.parametrize(("sharing", "units"), [("source", 4), ("layer", 1), ("none", 32)])
def test_who_shares_an_offset(sharing: str, units: int) -> None:
    target = strided_target("conv", (8, 4, 3, 3), 2, sharing=sharing)
    assert target.block.size == target.block.num_pruned == units
    rng = np.random.default_rng(0)
    part = rng.integers(1, 3, (target.block.rows, target.block.columns), dtype=np.int8)
    mask = weight_mask(target, part).expand(8, 4, 3, 3)
    expected = torch.from_numpy(patterns((3, 3), 2, per_axis=False).reshape(2, 3, 3))
    offsets = torch.from_numpy(part.astype(np.int64) - 1).expand(8, 4)
    assert torch.equal(mask, expected[offsets])


def test_a_part_of_the_maps_gets_the_stride() -> None:
    target = strided_target("conv", (8, 4, 3, 3), 2, part=0.5)
    assert target.block.num_pruned == 2
    mask = weight_mask(target, np.array([[0, 1, 0, 2]], dtype=np.int8))
    assert mask[0, 0].all()
    assert mask[0, 2].all()
    assert mask.sum() == 9 + 5 + 9 + 4


@pytest.mark.parametrize("sharing", ["source", "layer", "none"])
def test_a_guess_is_the_size_of_what_would_go(sharing: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3))
    weight = model.get_parameter("0.weight").detach()
    target = with_losses(strided_target("0", (8, 4, 3, 3), 2, sharing=sharing), model, {})
    assert target.block.losses is not None
    assert target.block.losses.shape == (target.block.rows, target.block.columns, 2)
    for way in (1, 2):
        part = np.full((target.block.rows, target.block.columns), way, dtype=np.int8)
        gone = (weight * ~weight_mask(target, part)).abs().sum((2, 3)).double()
        if sharing == "source":
            gone = gone.sum(0, keepdim=True)
        if sharing == "layer":
            gone = gone.sum().reshape(1, 1)
        ratio = torch.from_numpy(target.block.losses[:, :, way - 1]) / gone
        assert torch.allclose(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-5)
    kernels = with_losses(kernel_target("0", (8, 4, 3, 3), 0.5), model, {}).block.losses
    assert kernels is not None
    order = np.argsort(kernels[:, :, 0], axis=None)
    assert np.array_equal(order, weight.abs().sum((2, 3)).flatten().argsort().numpy())
