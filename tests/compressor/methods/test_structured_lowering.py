"""The reduced matrix product is the dense convolution with masked weights."""

import pytest
import torch
import torch.nn.functional as F

from compressor.methods.structured_density import count_weights
from compressor.methods.structured_lowering import lower, lowered_conv2d
from compressor.methods.structured_masks import keep_positions

GEOMETRY = [((1, 1), (0, 0), (1, 1)), ((2, 1), (1, 2), (1, 1)), ((1, 2), (2, 1), (2, 1)), ((2, 2), (3, 3), (2, 3))]


def strided_mask(choices: list[tuple[int, int]], outputs: int, side: int) -> torch.Tensor:
    """(O, C, side, side): kernels of source map c keep (s_c, f_c)."""
    taps = [torch.from_numpy(keep_positions(side * side, stride, offset)) for stride, offset in choices]
    return torch.stack(taps).unflatten(1, (side, side)).expand(outputs, -1, -1, -1)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize(("stride", "padding", "dilation"), GEOMETRY)
def test_fewer_rows_and_the_same_sums(
    side: int, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    choices = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 2)]
    x, weight = torch.randn(2, 5, 15, 17, dtype=torch.float64), torch.randn(4, 5, side, side, dtype=torch.float64)
    mask = strided_mask(choices, 4, side)
    kernels = lower(weight, mask)
    assert len(kernels.places) == sum(-(-(side * side - offset) // step) for step, offset in choices)
    assert kernels.places.tolist() == sorted(kernels.places.tolist())
    wanted = F.conv2d(x, weight * mask, stride=stride, padding=padding, dilation=dilation)
    got = lowered_conv2d(x, kernels, stride=stride, padding=padding, dilation=dilation)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)  # sums in another order, float64
    single = lowered_conv2d(x.float(), lower(weight.float(), mask), stride=stride, padding=padding, dilation=dilation)
    assert (single - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_whole_kernels_that_are_gone_are_zeros_in_it() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    mask = strided_mask([(2, 0), (2, 1), (1, 0)], 4, 3).clone()
    mask[1, 0] = mask[2, 2] = False
    mask[:, 1] = False  # a source map that nobody reads needs no row
    kernels = lower(weight, mask)
    assert len(kernels.places) == 5 + 9
    assert torch.allclose(lowered_conv2d(x, kernels), F.conv2d(x, weight * mask), rtol=0, atol=1e-12)


def test_kernels_with_offsets_of_their_own_are_refused() -> None:
    mask = strided_mask([(2, 0), (2, 1)], 4, 3).clone()
    mask[3, 1] = mask[3, 0]
    with pytest.raises(ValueError, match="source map 1 keep different positions"):
        lower(torch.randn(4, 2, 3, 3), mask)


def test_combined_density_is_what_is_counted() -> None:
    """Sum over live kernels of |keep_c|, over all: the weights that are not 0."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, 3)
    choices = [(2, 0), (2, 1), (3, 1), (1, 0)]
    kernels = torch.rand(6, 4) > 0.4
    mask = strided_mask(choices, 6, 3) & kernels[:, :, None, None]
    with torch.no_grad():
        conv.weight.mul_(mask)
    (layer,) = count_weights(conv)
    sizes = torch.tensor([-(-(9 - offset) // step) for step, offset in choices])
    assert layer.live == int((kernels * sizes).sum())
    assert layer.density == int((kernels * sizes).sum()) / (6 * 4 * 9)
    assert (layer.live_kernels, layer.kernels) == (int(kernels.sum()), 24)
    assert layer.rows == len(lower(conv.weight.detach(), mask).places) == int((kernels.any(0) * sizes).sum())
