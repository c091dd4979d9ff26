import pytest
import torch

from models._dropout import Dropout


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_values_are_scaled_and_as_many_as_the_rate_says(
    memory_format: torch.memory_format, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = torch.ones(50, 7, 9, 11, dtype=dtype).contiguous(memory_format=memory_format)
    y = Dropout(0.25)(x)
    assert y.is_contiguous(memory_format=memory_format)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(4 / 3, dtype=dtype).item()}
    # 34,650 independent values: one standard deviation of the share is 0.0023.
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    share_per_channel = (y == 0).float().mean((0, 2, 3))
    assert share_per_channel.sub(0.25).abs().max() < 0.04


def test_the_gradient_is_that_of_the_kept_values() -> None:
    x = torch.randn(20, 30, requires_grad=True)
    y = Dropout(0.5)(x[:, ::2])
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[:, ::2] * x.detach()[:, ::2], y.detach())
    assert not x.grad[:, 1::2].any()


def test_the_global_seed_decides_and_evaluation_changes_nothing() -> None:
    dropout, x = Dropout(0.5), torch.randn(5, 5)
    first, again = (torch.manual_seed(3) and dropout(x) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, dropout(x))
    assert dropout.eval()(x) is x or torch.equal(dropout(x), x)
