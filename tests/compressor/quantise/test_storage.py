import math

import pytest
import torch

from compressor.methods.structured_masks import patterns
from compressor.quantise import FixedPoint, layer_storage, packed_bytes, quantise
from compressor.quantise.storage import LayerStorage


def storage(levels: torch.Tensor, bits: int = 4, steps: int = 1) -> LayerStorage:
    step = torch.ones(()) if steps == 1 else torch.ones(steps)
    return layer_storage("w", FixedPoint(levels.to(torch.int8), step, bits))


def dense(*shape: int) -> torch.Tensor:
    return torch.randint(1, 7, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_10_dense_weights_take_their_words_and_the_steps(bits: int) -> None:
    found = storage(dense(8, 6, 3, 3), bits, steps=8)
    assert (found.live, found.weights, found.mask_bits) == (432, 432, 0)
    assert found.packed_bits == 432 * bits + 8 * 32


def test_10_a_zero_here_and_there_is_a_word() -> None:
    levels = dense(8, 6, 3, 3)
    levels[0, 0, 1, 1] = levels[3, 2, 0, 0] = 0
    assert storage(levels).packed_bits == 432 * 4 + 32


def test_10_channels_take_a_bit_each_where_one_is_gone() -> None:
    levels = dense(8, 6, 3, 3)
    levels[2] = 0
    levels[:, 5] = 0
    found = storage(levels)
    assert (found.live, found.mask_bits) == (7 * 5 * 9, 8 + 6)


def test_10_kernels_take_a_bit_each_where_one_is_gone() -> None:
    levels = dense(8, 6, 3, 3)
    levels[2, 3] = levels[4, 1] = levels[7, 0] = 0
    found = storage(levels)
    assert (found.live, found.mask_bits) == ((48 - 3) * 9, 48)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (3, 4), (5, 3)])
def test_10_strided_maps_tell_stride_and_offset(size: int, stride: int) -> None:
    levels = dense(8, 6, size, size).reshape(8, 6, size**2)
    live = 0
    for channel in range(6):
        offset = channel % stride
        kept = [q for q in range(size**2) if q >= offset and (q - offset) % stride == 0]
        assert len(kept) == math.ceil((size**2 - offset) / stride)
        mask = torch.zeros(size**2, dtype=torch.int64)
        mask[kept] = 1
        levels[:, channel] *= mask
        live += 8 * len(kept)
    found = storage(levels.reshape(8, 6, size, size))
    assert found.live == live == int((levels != 0).sum())
    assert found.mask_bits == 6 * 2 * math.ceil(math.log2(stride))


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (5, 2), (5, 3)])
def test_10_maps_strided_along_each_axis_tell_two_strides_and_offsets(size: int, stride: int) -> None:
    ways = torch.from_numpy(patterns((size, size), stride, per_axis=True)).reshape(-1, size, size)
    levels = dense(8, 2 * len(ways), size, size) * torch.cat([ways, ways])
    found = storage(levels)
    assert found.live == int((levels != 0).sum()) == 8 * 2 * size**2, "the patterns part the kernel among them"
    assert found.mask_bits == 2 * len(ways) * 4 * math.ceil(math.log2(stride))


def test_10_a_layer_takes_the_cheaper_of_both_ways_to_tell_strides() -> None:
    flattened = dense(8, 6, 5, 5).reshape(8, 6, 25)
    flattened[:, :, 1::2] = 0  # a checkerboard has every row and every column
    assert storage(flattened.reshape(8, 6, 5, 5)).mask_bits == 6 * 2
    rows = dense(8, 6, 5, 5)
    rows[:, :, 1::2] = 0
    found = storage(rows)
    assert (found.live, found.mask_bits) == (8 * 6 * 15, 6 * 2), "columns are whole and tell nothing"


def test_10_all_three_at_once_count_what_is_not_zero() -> None:
    levels = dense(16, 6, 3, 3)
    levels.reshape(16, 6, 9)[:, :, 1::2] = 0
    levels[5] = 0
    levels[6, 2] = levels[7, 3] = levels[8, 4] = levels[9, 1] = levels[10, 0] = 0
    found = storage(levels, bits=8)
    assert found.live == int((levels != 0).sum())
    assert found.mask_bits == 16 + 6 * 2 + 15 * 6


def test_a_mask_is_left_out_where_it_costs_more_than_it_saves() -> None:
    levels = dense(8, 6, 1, 1)
    levels[0, 0] = 0
    assert storage(levels).packed_bits == 48 * 4 + 32


def test_nothing_left_is_no_mistake() -> None:
    found = storage(torch.zeros(4, 3, 3, 3))
    assert (found.live, found.packed_bits) == (0, 32)


def test_the_network_is_the_sum_of_its_parts() -> None:
    weight = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    layers = [layer_storage("a", quantise(weight, 3)), layer_storage("b", quantise(weight, 5, axis=0))]
    assert packed_bytes(layers, 10) == math.ceil((432 * 3 + 32 + 432 * 5 + 8 * 32 + 10 * 32) / 8)
