"""Networks that torch cannot train are refused before anything is written."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressor.data import Dataset, Preprocessing, TensorSplit
from compressor.errors import CompressorError
from compressor.train import TrainSettings, resume_path, train

SETTINGS = TrainSettings(epochs=1, batch_size=8, peak_lr=0.05, precision="32")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    def split(count: int) -> TensorSplit:
        images = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        return TensorSplit(images.to(torch.uint8), torch.arange(count) % 2)

    return Dataset("noise", ("a", "b"), Preprocessing((0.5,), (0.3,), (1, 8, 8)), split(16), split(8), split(8))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))  # type: ignore[no-any-return]


class InPlace(Network):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.conv(x))
        return self.head(x.mul_(2).mean((2, 3)))  # type: ignore[no-any-return]


class NoGradient(Network):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Foreign(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.from_numpy(self.conv(x).mean((2, 3)).numpy()))  # type: ignore[no-any-return]


def lazy() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))


@pytest.mark.parametrize("precision", ["32", "auto"])
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (InPlace, r"InPlace cannot be trained: .*output 0 of Sigmoid.*; write into a new tensor"),
        (NoGradient, r"NoGradient cannot be trained: .*leave torch\.no_grad, detach"),
        (lambda: Network().requires_grad_(False), r"Network cannot be trained: .*requires_grad_\(False\) out of it"),
        (Foreign, r"Foreign cannot be trained: RuntimeError: Can't call numpy\(\) on Tensor"),
        (lazy, r"Sequential cannot be trained: 2\.weight, 2\.bias have no size yet"),
    ],
    ids=["in place", "no gradient", "frozen", "foreign", "lazy"],
)
def test_it_is_refused_in_one_line_and_nothing_is_left(
    tmp_path: Path, dataset: Dataset, network: type[nn.Module], reason: str, precision: str
) -> None:
    kept = tmp_path / "other.pt.resume"
    kept.write_text("of another run")
    settings = dataclasses.replace(SETTINGS, precision=precision)
    with pytest.raises(CompressorError, match=reason) as caught:
        train(network(), dataset, settings=settings, checkpoint_path=tmp_path / "m.pt")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [kept]


def test_the_state_of_a_stopped_run_outlives_the_refusal(tmp_path: Path, dataset: Dataset) -> None:
    state = resume_path(tmp_path / "m.pt")
    state.write_bytes(b"of a run that was stopped")
    with pytest.raises(CompressorError, match="InPlace cannot be trained"):
        train(InPlace(), dataset, settings=SETTINGS, checkpoint_path=tmp_path / "m.pt")
    assert state.read_bytes() == b"of a run that was stopped"


class FailsInTraining(Network):
    """On whole batches alone, so that the trial cannot know."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == SETTINGS.batch_size:
            raise ValueError("no such batch")
        return super().forward(x)


def test_a_run_that_fails_in_its_first_epoch_leaves_no_state(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="no such batch"):
        train(FailsInTraining(), dataset, settings=SETTINGS, checkpoint_path=tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


def test_the_trial_changes_neither_the_network_nor_the_random_state(dataset: Dataset) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    train(network, dataset, settings=dataclasses.replace(SETTINGS, peak_lr=0.0, weight_decay=0.0))
    after = {name: value for name, value in network.state_dict().items() if name in dict(network.named_parameters())}
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert torch.equal(torch.get_rng_state(), random_state)
