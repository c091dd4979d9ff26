import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.methods.fbs_gate import gated_batch_norm, pixel_mean

EPS = 1e-5
# Two to three roundings of bfloat16 (2^-8 relative each) on values up to about 10.
BFLOAT16 = {"rtol": 0.03, "atol": 0.06}


def plain(z: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return F.batch_norm(z, None, None, training=True, eps=EPS) * scale[:, :, None, None] + offset[:, :, None, None]


def draw(dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 5, 7, 4, generator=generator, dtype=torch.float64) * 2 + 3
    scale = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    offset = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    scale[0, 1] = scale[2, 3] = 0.0
    wide = torch.promote_types(dtype, torch.float32)
    return z.to(dtype).contiguous(memory_format=layout), scale.to(wide), offset.to(wide)


def test_gradients_match_finite_differences() -> None:
    arguments = [value.requires_grad_() for value in draw(torch.float64)]
    assert torch.autograd.gradcheck(lambda *values: gated_batch_norm(*values, EPS)[0], arguments, fast_mode=True)
    assert torch.autograd.gradcheck(pixel_mean, arguments[:1], fast_mode=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_separate_layers(dtype: torch.dtype, layout: torch.memory_format) -> None:
    tolerance = BFLOAT16 if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    fused = [value.requires_grad_() for value in draw(dtype, layout)]
    separate = [value.detach().float().requires_grad_() for value in fused]
    y, mean, var = gated_batch_norm(*fused, EPS)
    expected = plain(*separate)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y.float(), expected, **tolerance)
    torch.testing.assert_close(mean, separate[0].mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(var, separate[0].var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-4)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    y.backward(direction)
    expected.backward(direction.float())
    for ours, theirs in zip(fused, separate, strict=True):
        scale = theirs.grad.abs().max()
        torch.testing.assert_close(ours.grad.float() / scale, theirs.grad / scale, **tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_activation_may_change_the_result_in_place(dtype: torch.dtype, layout: torch.memory_format) -> None:
    gradients = []
    for inplace in (True, False):
        arguments = [value.requires_grad_() for value in draw(dtype, layout)]
        F.relu(gated_batch_norm(*arguments, EPS)[0], inplace=inplace).square().sum().backward()
        gradients.append([value.grad for value in arguments])
    for changed, kept in zip(*gradients, strict=True):
        assert torch.equal(changed, kept)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_pixel_mean_is_wide(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = torch.rand(3, 5, 30, 30, generator=torch.Generator().manual_seed(0)).to(dtype).contiguous(memory_format=layout)
    mean = pixel_mean(x)
    assert mean.dtype == torch.promote_types(dtype, torch.float32)
    # Strips of bfloat16 sums are each rounded to 2^-9 relative, then averaged.
    torch.testing.assert_close(mean.double(), x.double().mean((2, 3)), rtol=2e-3, atol=0.0)


def test_single_pixels_work() -> None:
    z = torch.randn(4, 3, 1, 1).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    gated_batch_norm(z, torch.ones(4, 3), torch.zeros(4, 3), EPS)[0].sum().backward()
    assert torch.isfinite(z.grad).all()
