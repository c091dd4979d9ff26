import pytest
import torch
from torch import Tensor, nn

from compressor.data import Augmentation, Dataset, Preprocessing, TensorSplit
from compressor.train import TrainSettings, train
from compressor.train.views import views_of_any_layout


def images() -> Tensor:
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def test_a_view_that_torch_refuses_is_a_copy_in_the_same_order() -> None:
    x = images()
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.view(4, -1)
    with views_of_any_layout():
        rows, again, like = x.view(4, -1), x.view((4, 90)), x.view_as(torch.empty(4, 90))
    for values in (rows, again, like):
        assert torch.equal(values, x.contiguous().view(4, -1))


def test_other_views_are_what_they_were() -> None:
    x = images().contiguous()
    with views_of_any_layout():
        assert x.view(4, -1).data_ptr() == x.data_ptr()
        assert torch.equal(x.view(torch.int32), x.clone().view(torch.int32))
        with pytest.raises(RuntimeError, match="invalid for input of size 360"):
            x.view(7, -1)
        with pytest.raises(RuntimeError, match="divisible"):
            x[..., :1].view(torch.float64)


def test_gradients_go_through() -> None:
    x, y = images().requires_grad_(), images().requires_grad_()
    weights = torch.randn(90, 2, generator=torch.Generator().manual_seed(1))
    with views_of_any_layout():
        (x.view(4, -1) @ weights).square().sum().backward()
    (y.reshape(4, -1) @ weights).square().sum().backward()
    assert torch.equal(x.grad, y.grad)


class _Flattening(nn.Module):
    """As many networks are written: planes of several pixels, flattened by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.head = nn.Linear(8 * 6 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x.view(x.size(0), -1))


@pytest.mark.parametrize("precision", ["auto", "32", "bf16"])
def test_a_network_that_flattens_by_view_is_trained(precision: str) -> None:
    labels = torch.arange(64) % 2
    noise = torch.randint(0, 100, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    split = TensorSplit((noise + 100 * labels[:, None, None, None]).to(torch.uint8), labels, Augmentation())
    dataset = Dataset("easy", ("dark", "bright"), Preprocessing((0.4,), (0.25,), (1, 8, 8)), split, split, split)
    model = _Flattening()
    settings = TrainSettings(epochs=2, batch_size=16, peak_lr=0.05, precision=precision)
    record = train(model, dataset, settings=settings)
    assert record.epochs[-1].val_top1 > 0.9
