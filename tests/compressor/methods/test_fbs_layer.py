"""The invariants of the FBS layer; numbers in names are those of the method's specification."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.methods.fbs_gate import gated_batch_norm
from compressor.methods.fbs_init import GAMMA_FLOOR
from compressor.methods.fbs_layer import FBSConv2d, FBSFoldedConv2d, FBSOptions

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums of a few dozen products in another order
DENSITIES = [0.1, 0.3, 0.5, 0.7, 0.99, 1.0]


def images(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(6, 4, 9, 9, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(*, bias: bool = False) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    torch.manual_seed(3)
    conv, bn = nn.Conv2d(4, 10, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d(10)
    with torch.no_grad():
        bn.weight.uniform_(-1.5, 1.5)
        bn.bias.normal_()
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2.0)
    return conv, bn


def layer(*, density: float = 0.5, slope: float = 0.0, spread: float = 1.0, **options: object) -> FBSConv2d:
    """A layer whose predictor looks at its input (spread > 0)."""
    made = FBSConv2d(*dense(), options=FBSOptions(**options), density=density, saliency_slope=slope)
    nn.init.normal_(made.saliency_weight, std=spread) if spread else nn.init.zeros_(made.saliency_weight)
    return made


FORMS = pytest.mark.parametrize("form", ["paper", "released"])
MODES = pytest.mark.parametrize("training", [True, False])


@FORMS
@MODES
@pytest.mark.parametrize("bias", [True, False])
def test_01_warm_start_is_the_batch_norm_network(form: str, training: bool, bias: bool) -> None:
    conv, bn = (module.double() for module in dense(bias=bias))
    fbs = FBSConv2d(conv, bn, options=FBSOptions(form=form), density=1.0)
    nn.init.zeros_(fbs.saliency_weight)
    for module in (conv, bn, fbs):
        module.train(training)
    x = images(dtype=torch.float64)
    torch.testing.assert_close(fbs(x), bn(conv(x)), rtol=0, atol=1e-10)
    sign = torch.where(bn.weight < 0, -1.0, 1.0)
    shift = 0.0 if conv.bias is None else conv.bias
    torch.testing.assert_close(fbs.bn.running_var, bn.running_var)
    if not training or not bias:  # a bias moves the batch's mean too
        torch.testing.assert_close(fbs.bn.running_mean, sign * (bn.running_mean - shift))


def test_01_channels_with_gamma_near_zero_keep_their_shift() -> None:
    conv, bn = dense()
    with torch.no_grad():
        bn.weight[:4] = torch.tensor([0.0, 1e-9, -1e-9, 0.0])
    fbs = FBSConv2d(conv, bn, density=1.0).eval()
    bn.eval()
    normalised = F.batch_norm(conv(images()), bn.running_mean, bn.running_var, eps=bn.eps)
    # The predictor's spread is relative, a few percent of the shift.
    allowed = GAMMA_FLOOR * normalised.abs().max() + 0.1 * bn.bias[:4].abs().max()
    assert ((fbs(images()) - bn(conv(images())))[:, :4].abs() < allowed).all()
    assert torch.isfinite(fbs.beta).all()


@FORMS
@MODES
def test_02_density_one_is_the_layer_without_masks(form: str, training: bool) -> None:
    fbs, x = layer(density=1.0, form=form).train(training), images()
    scores, _ = fbs.saliency_and_mask(x)
    if training:
        offset = scores * fbs.beta if form == "paper" else fbs.beta.expand_as(scores)
        expected = gated_batch_norm(fbs.conv(x), scores, offset, fbs.bn.eps)[0]
    else:
        folded = fbs.fold()
        offset = scores * folded.shift if form == "paper" else scores * folded.shift + folded.post_shift
        z = F.conv2d(x, folded.weight, None, folded.stride, folded.padding, folded.dilation)
        expected = torch.addcmul(offset[:, :, None, None], scores[:, :, None, None], z)
    assert torch.equal(fbs(x), expected)


@FORMS
@MODES
@pytest.mark.parametrize("density", DENSITIES)
def test_03_exactly_the_ceiling_wins_and_losers_are_zero(form: str, training: bool, density: float) -> None:
    fbs, x = layer(density=density, form=form).train(training), images()
    _, mask = fbs.saliency_and_mask(x)
    assert (mask.sum(dim=1) == {0.1: 1, 0.3: 3, 0.5: 5, 0.7: 7, 0.99: 10, 1.0: 10}[density]).all()
    assert (fbs(x)[~mask] == 0.0).all()


def test_04_masks_depend_on_the_input_through_the_predictor_only() -> None:
    x = images()
    _, mask = layer().saliency_and_mask(x)
    assert (mask[:, None] ^ mask[None]).any()
    _, blind = layer(spread=0.0).saliency_and_mask(x)
    assert (blind == blind[0]).all()


@FORMS
def test_05_samples_do_not_see_each_other_in_evaluation(form: str) -> None:
    fbs, x = layer(form=form).eval(), images()
    together = fbs(x)
    for index in range(len(x)):
        torch.testing.assert_close(fbs(x[index : index + 1])[0], together[index], **CLOSE)


@FORMS
def test_06_skipping_channels_gives_the_same_output(form: str) -> None:
    fbs, x = layer(form=form).eval(), images().clone()
    x[:, 1] = 0.0  # a channel that the layer before left out
    scores, mask = fbs.saliency_and_mask(x)
    folded, out = fbs.fold(), fbs(x)
    live = torch.tensor([0, 2, 3])
    for sample in range(len(x)):
        winners = mask[sample].nonzero().flatten()
        weight = folded.weight[winners][:, live]
        packed = F.conv2d(x[sample : sample + 1, live], weight, None, folded.stride, folded.padding)[0]
        packed = scores[sample, winners, None, None] * (packed + folded.shift[winners, None, None])
        if folded.post_shift is not None:
            packed = packed + folded.post_shift[winners, None, None]
        torch.testing.assert_close(out[sample, winners], packed, **CLOSE)


@FORMS
@MODES
def test_07_gradients_match_finite_differences_with_the_mask_held(form: str, training: bool) -> None:
    fbs = layer(form=form).double().train(training)
    names = [name for name, _ in fbs.named_parameters()]
    start = [parameter.detach().clone().requires_grad_() for parameter in fbs.parameters()]
    buffers = {name: value.clone() for name, value in fbs.named_buffers()}

    def run(x: Tensor, *values: Tensor) -> Tensor:
        state = {
            **dict(zip(names, values, strict=True)),
            **{key: value.clone() for key, value in buffers.items()},
        }
        return torch.func.functional_call(fbs, state, (x,))

    x = images(dtype=torch.float64)[:3].requires_grad_()
    # Steps of 1e-6 change no winner: neighbouring saliencies differ by far more.
    assert torch.autograd.gradcheck(run, (x, *start), eps=1e-6, atol=1e-5, fast_mode=True)


@FORMS
@MODES
def test_07_channels_that_lose_everywhere_teach_nothing(form: str, training: bool) -> None:
    fbs = layer(spread=0.0, form=form).train(training)  # the same losers for every sample
    _, mask = fbs.saliency_and_mask(images())
    lost = ~mask.any(dim=0)
    fbs(images()).square().sum().backward()
    assert lost.sum() == 5
    assert (fbs.saliency_weight.grad[:, lost] == 0).all()
    assert (fbs.saliency_bias.grad[lost] == 0).all()
    assert (fbs.conv.weight.grad[lost] == 0).all()
    assert (fbs.saliency_bias.grad[~lost] != 0).all()


def test_08_saliencies_are_not_negative_and_channels_can_be_permuted() -> None:
    fbs, x = layer().eval(), images()
    assert (fbs.saliency_and_mask(x)[0] >= 0).all()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    permuted = copy.deepcopy(fbs)
    with torch.no_grad():
        permuted.conv.weight.copy_(fbs.conv.weight[order])
        permuted.bn.running_mean.copy_(fbs.bn.running_mean[order])
        permuted.bn.running_var.copy_(fbs.bn.running_var[order])
        permuted.beta.copy_(fbs.beta[order])
        permuted.saliency_weight.copy_(fbs.saliency_weight[:, order])
        permuted.saliency_bias.copy_(fbs.saliency_bias[order])
    # Ties (saliency 0) go to the lower index, so they are kept out of this comparison.
    nn.init.constant_(permuted.saliency_bias, 5.0)
    nn.init.constant_(fbs.saliency_bias, 5.0)
    torch.testing.assert_close(permuted(x), fbs(x)[:, order], **CLOSE)


@pytest.mark.parametrize("l1_of", ["all", "winners"])
def test_10_l1_is_a_mean_over_the_batch(l1_of: str) -> None:
    fbs, x = layer(l1_of=l1_of).train(), images()
    scores, mask = fbs.saliency_and_mask(x)
    fbs(x)
    expected = (scores if l1_of == "all" else scores * mask).sum(dim=1).mean()
    torch.testing.assert_close(fbs.saliency_l1, expected)
    fbs(torch.cat([x, x]))
    torch.testing.assert_close(fbs.saliency_l1, expected)


@FORMS
def test_12_scale_of_the_kernels_does_not_matter_in_training(form: str) -> None:
    fbs, x = layer(form=form).train(), images()
    before = fbs(x)
    with torch.no_grad():
        fbs.conv.weight.mul_(7.0)
    torch.testing.assert_close(fbs(x), before, rtol=1e-3, atol=1e-3)  # eps weighs less beside a larger variance


@FORMS
@pytest.mark.parametrize("normalize", [True, False])
def test_folded_layer_is_the_layer(form: str, normalize: bool) -> None:
    fbs = layer(form=form, normalize=normalize).eval()
    folded = FBSFoldedConv2d(fbs.fold())
    with torch.no_grad():
        assert torch.equal(folded(images()), fbs(images()))
    program = torch.export.export(folded, (images(),))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls == ["compress.fbs_conv.default"]


def test_exported_layer_holds_one_opaque_node() -> None:
    program = torch.export.export(layer().eval(), (images(),))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("compress.fbs_conv.default") == 1
    assert not [target for target in targets if "sort" in target or "conv2d" in target]


def test_normalized_saliencies_have_mean_one() -> None:
    scores, _ = layer(normalize=True).saliency_and_mask(images())
    torch.testing.assert_close(scores.mean(dim=1), torch.ones(6))


def test_signed_saliencies_compete_by_value() -> None:
    fbs, x = layer(slope=1.0, form="released"), images()
    scores, mask = fbs.saliency_and_mask(x)
    assert (scores < 0).any()
    assert (scores[mask].view(6, 5).min(dim=1).values >= scores[~mask].view(6, 5).max(dim=1).values).all()


def test_paper_start_forgets_the_affine_part() -> None:
    fbs = FBSConv2d(*dense(), options=FBSOptions(init="paper"))
    assert (fbs.saliency_bias == 1.0).all()
    assert torch.equal(fbs.beta, torch.full((10,), 0.1))
    assert fbs.saliency_weight.abs().max() <= 0.1
    assert fbs.saliency_weight.std() > 0.02


def test_mean_sub_sampling_differs_on_signed_inputs_only() -> None:
    signed, positive = layer(subsample="mean").eval(), layer(subsample="mean").eval()
    positive.nonnegative_input = True
    x = images().abs()
    torch.testing.assert_close(signed(x), positive(x), **CLOSE)
    torch.testing.assert_close(positive(x), layer().eval()(x), **CLOSE)
    assert not torch.allclose(signed(images()), layer().eval()(images()))
    with pytest.raises(ValueError, match="subsample='mean' over a signed input cannot be folded"):
        signed.fold()


def test_evaluation_under_autocast_is_close() -> None:
    fbs, x = layer(density=1.0).eval(), images()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = fbs(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), fbs(x), rtol=0.05, atol=0.1)  # bfloat16 has 8 bits


def test_running_statistics_move_as_batch_norm_moves_them() -> None:
    for momentum in (0.1, 0.3, None):
        conv, bn = dense()
        bn.momentum = momentum
        with torch.no_grad():
            bn.weight.abs_()
        fbs = FBSConv2d(conv, bn)
        for seed in range(3):
            fbs(images(seed))
            bn(conv(images(seed)))
        torch.testing.assert_close(fbs.bn.running_mean, bn.running_mean, **CLOSE)
        torch.testing.assert_close(fbs.bn.running_var, bn.running_var, **CLOSE)
        assert fbs.bn.num_batches_tracked == bn.num_batches_tracked


@pytest.mark.parametrize("wrong", [{"form": "papre"}, {"init": "x"}, {"subsample": "max"}, {"l1_of": ""}])
def test_unknown_options_list_the_known(wrong: dict) -> None:
    with pytest.raises(ValueError, match="choose from"):
        FBSOptions(**wrong)


def test_signed_saliencies_cannot_be_normalized() -> None:
    with pytest.raises(ValueError, match="normalize needs saliencies"):
        FBSConv2d(*dense(), options=FBSOptions(normalize=True), saliency_slope=1.0)
