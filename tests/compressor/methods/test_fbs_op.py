import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.methods.fbs_op import fbs_conv, fbs_conv_formula, num_winners, ranking, saliency, winner_mask

# Sums of a few dozen float32 products in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def arguments(
    *, post_shift: bool = False, winners: int = 5, slope: float = 0.0, normalize: bool = False, block: int = 1
) -> list:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, weight, shift, predictor = draw(3, 4, 9, 7), draw(8, 4, 3, 3), draw(8), draw(4, 8)
    bias = draw(8).abs()
    return [
        x, weight, shift, draw(8) if post_shift else None, predictor, bias,
        winners, [2, 1], [1, 0], [1, 2], slope, normalize, block,
    ]  # fmt: skip


CASES = [
    {},
    {"post_shift": True},
    {"slope": 1.0},
    {"slope": 1.0, "post_shift": True},
    {"normalize": True},
    {"winners": 8},
    {"winners": 1},
    {"block": 4, "winners": 4},
    {"block": 3, "slope": 1.0},  # blocks of 3, 3 and 2
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_op_is_the_layer_written_out(case: dict) -> None:
    args = arguments(**case)
    x, weight, shift, post, predictor, bias, k, stride, padding, dilation, slope, normalize, block = args
    out = fbs_conv(*args)
    conv = F.conv2d(x, weight, None, stride, padding, dilation)
    for sample in range(3):
        score = x[sample].abs().mean((1, 2)) @ predictor + bias
        score = score.relu() if slope == 0 else score
        score = 8 * score / score.sum() if normalize else score
        means = [part.mean().item() for part in score.split(block) for _ in part]
        order = sorted(range(8), key=lambda channel: (-means[channel], channel))
        for channel in range(8):
            expected = torch.zeros_like(conv[sample, channel])
            if channel in order[:k]:
                expected = score[channel] * (conv[sample, channel] + shift[channel])
                expected = expected if post is None else expected + post[channel]
            torch.testing.assert_close(out[sample, channel], expected, **CLOSE)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_op_follows_the_rules_of_torch_library(case: dict, layout: torch.memory_format) -> None:
    args = arguments(**case)
    args[0] = args[0].to(memory_format=layout)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.compress.fbs_conv.default, tuple(args), test_utils=checks)


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert winner_mask(scores, 3).tolist() == [[True, True, True, False, False]] * 2


def test_nan_counts_as_lowest_and_losers_stay_zero() -> None:
    scores = torch.tensor([[torch.nan, -1.0, torch.inf, -torch.inf]])
    assert winner_mask(scores, 2).tolist() == [[False, True, True, False]]
    args = arguments()
    args[0][0, 0, 0, 0] = torch.nan
    out = fbs_conv(*args)
    assert (out[0, 5:] == 0).all()
    assert torch.isfinite(out[1:]).all()


def test_all_zero_input_is_finite_with_normalisation() -> None:
    args = arguments(normalize=True)
    args[0] = torch.zeros_like(args[0])
    args[5] = torch.zeros_like(args[5])
    assert (fbs_conv(*args) == 0).all()


def test_formula_has_the_gradient_of_its_winners_only() -> None:
    args = arguments(winners=3)
    args[4] = torch.zeros_like(args[4])  # the same winners for every sample
    for index in (1, 2, 4, 5):
        args[index].requires_grad_()
    fbs_conv_formula(*args).square().sum().backward()
    lost = ~winner_mask(args[5][None], 3)[0]
    assert (args[4].grad[:, lost] == 0).all()
    assert (args[1].grad[lost] == 0).all()
    assert (args[1].grad[~lost] != 0).any()


def test_saliency_stays_float32_under_autocast() -> None:
    x, weight, bias = torch.rand(2, 4).bfloat16(), torch.rand(4, 8), torch.rand(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = saliency(x, weight, bias, slope=0.0, normalize=False)
    assert torch.equal(scores, saliency(x.float(), weight, bias, slope=0.0, normalize=False))


@pytest.mark.parametrize(("block", "channels"), [(4, 24), (8, 20), (16, 40), (16, 12)])
def test_blocks_win_whole_but_for_the_one_that_makes_up_k(block: int, channels: int) -> None:
    scores = torch.rand(50, channels, generator=torch.Generator().manual_seed(0))
    for winners in (num_winners(tenth / 10, channels, block) for tenth in range(1, 11)):
        assert winners % block == 0 or winners == channels
        mask = winner_mask(ranking(scores, block), winners)
        assert (mask.sum(dim=1) == winners).all()
        partly = torch.zeros(50, dtype=torch.int64)
        for part in mask.split(block, dim=1):
            partly += part.any(dim=1) & ~part.all(dim=1)
        # Only where a smaller last block is among the winners.
        assert (partly <= mask[:, -1] * (channels % block != 0)).all()


def test_blocks_of_one_rank_by_the_saliencies_themselves() -> None:
    scores = torch.rand(3, 8)
    assert torch.equal(ranking(scores, 1), scores)
    assert ranking(torch.tensor([[1.0, 3.0, 5.0]]), 2).tolist() == [[2.0, 2.0, 5.0]]


@pytest.mark.parametrize("density", [0.0, -0.5, 1.01, float("nan")])
def test_density_outside_its_range_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match=r"density .* is not in"):
        num_winners(density, 8)


def test_winners_are_the_ceiling() -> None:
    assert [num_winners(tenth / 10, 10) for tenth in range(1, 11)] == list(range(1, 11))
    assert num_winners(0.501, 64) == 33
