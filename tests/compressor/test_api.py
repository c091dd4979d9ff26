"""The Python call: the caller's own network, batches, loss and metric, with every method."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import compressor
from compressor import methods
from compressor.errors import CompressorError
from compressor.train import TrainSettings
from runtime import Session

SETTINGS = TrainSettings(peak_lr=0.02, precision="32")
# How each method is asked for about half the cost, with as little training as it can do.
ASKED: dict[str, dict[str, Any]] = {
    "fbs": {"density": 0.5, "epochs": 2},
    "l1": {"budget": "macs=0.5x", "epochs": 1},
    "structured": {
        "budget": "macs=0.5x",
        "epochs": 1,
        "method_settings": {"particles": 4, "steps": 1, "hold": 1},
    },
    "gate-decorator": {
        "budget": "macs=0.5x",
        "epochs": 1,
        "method_settings": {"prune_fraction": 0.2, "ticks_per_tock": 2, "tock_epochs": 1},
    },
    "slimming": {"budget": "macs=0.5x", "epochs": 1, "method_settings": {"sparse_epochs": 1}},
    "rbp": {"budget": "macs=0.5x", "epochs": 1, "method_settings": {"layer_epochs": 1, "share_epochs": 1}},
}


class MeanIoU:
    """Mean over the classes of intersection / union, over all pixels of a split."""

    def reset(self) -> None:
        self.counts = torch.zeros(2, 2)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.counts += torch.bincount((labels * 2 + logits.argmax(1)).flatten(), minlength=4).reshape(2, 2)

    def compute(self) -> float:
        both = self.counts.diag()
        return (both / (self.counts.sum(0) + self.counts.sum(1) - both)).mean().item()


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, stride=stride, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


def classifier() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)]
    return nn.Sequential(block(1, 16), block(16, 16, 2), block(16, 16), *head)


def segmenter() -> nn.Module:
    """Fully convolutional: down, up again, a label for every pixel."""
    torch.manual_seed(0)
    up = nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(block(1, 16), block(16, 16, 2), block(16, 16), up, nn.Conv2d(16, 2, 1))


def squares(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright squares on a dark ground, and which pixels belong to them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(count, 12, 12, dtype=torch.int64)
    for label in labels:
        y, x = torch.randint(0, 7, (2,), generator=generator).tolist()
        label[y : y + 5, x : x + 5] = 1
    return 0.5 * torch.randn(count, 1, 12, 12, generator=generator) + labels[:, None], labels


def pixel_batches(count: int, seed: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*squares(count, seed)), batch_size=16)


def image_batches(count: int, seed: int) -> DataLoader[Any]:
    """Is the square in the upper half?"""
    images, labels = squares(count, seed)
    upper = (labels[:, :6].sum((1, 2)) > labels[:, 6:].sum((1, 2))).long()
    return DataLoader(TensorDataset(images, upper), batch_size=16)


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, targets)


def test_every_method_is_tried_here() -> None:
    assert set(ASKED) == set(methods.names())


@pytest.mark.parametrize("method", ASKED)
@pytest.mark.parametrize("network", [classifier, segmenter])
def test_a_network_of_ones_own(method: str, network: Any, tmp_path: Path) -> None:
    batches, metric = (pixel_batches, MeanIoU()) if network is segmenter else (image_batches, None)
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example = torch.zeros(2, 1, 12, 12)
    result = compressor.compress(
        model,
        example,
        method=method,
        train=batches(48, 1),
        val=batches(24, 2),
        loss=loss,
        align="off",
        settings=SETTINGS,
        verbose=False,
        **({} if metric is None else {"metric": metric}),
        **ASKED[method],
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "the caller's stays"
    assert result.report["macs"] < 0.6 * result.report["macs_before"]
    assert result.report["test"] is None

    images = squares(4, 3)[0]
    outputs = result.model(images)
    assert outputs.shape == model.eval()(images).shape
    if metric is not None:
        metric.reset()
        metric.update(result.model(squares(24, 2)[0]), squares(24, 2)[1])
        assert result.report["val"] == pytest.approx(metric.compute(), abs=1e-6)

    result.save(tmp_path / "small.pt")
    again = compressor.load(tmp_path / "small.pt", network())
    assert torch.equal(again.model(images), outputs)

    file = compressor.export(result, tmp_path / "small.onnx")
    (got,) = Session(file.path, stock=True).run([images[:1].numpy()])
    assert np.abs(got - outputs[:1].detach().numpy()).max() <= 1e-4 * np.abs(outputs.detach().numpy()).max()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads may differ in their last bit from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"method": "l1", "budget": "macs=0.5x", "epochs": 2, "align": "off", "settings": SETTINGS}

    def compress(train: Any, **options: Any) -> compressor.Compressed:
        return compressor.compress(
            classifier(),
            torch.zeros(2, 1, 12, 12),
            train=train,
            val=image_batches(24, 2),
            verbose=False,
            distill=True,
            **asked,
            **options,
        )

    class Stopped:
        """The user presses Ctrl-C in the second epoch of the fine-tuning."""

        epochs = 0

        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            self.epochs += (tmp_path / "run" / "compressed.pt.resume").is_file()
            if self.epochs == 2:
                raise KeyboardInterrupt
            yield from image_batches(48, 1)

    with pytest.raises(KeyboardInterrupt):
        compress(Stopped(), workdir=tmp_path / "run")
    resumed = compress(image_batches(48, 1), workdir=tmp_path / "run", resume=True)
    whole = compress(image_batches(48, 1))
    state = whole.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in resumed.model.state_dict().items())


def test_wrong_wishes_are_one_line(tmp_path: Path) -> None:
    batches: dict[str, Any] = {"train": image_batches(16, 1), "val": image_batches(16, 2), "verbose": False}
    example = torch.zeros(2, 1, 12, 12)
    with pytest.raises(CompressorError, match="give a budget"):
        compressor.compress(classifier(), example, method="l1", density=0.5, **batches)
    with pytest.raises(CompressorError, match="give density"):
        compressor.compress(classifier(), example, method="fbs", budget="macs=0.5x", **batches)
    with pytest.raises(CompressorError, match="unknown budget"):
        compressor.compress(classifier(), example, method="l1", budget="half", **batches)
    with pytest.raises(CompressorError, match="resume needs workdir"):
        compressor.compress(classifier(), example, method="l1", budget="macs=0.5x", resume=True, **batches)
    result = compressor.compress(
        classifier(), example, method="l1", budget="macs=0.5x", epochs=0, align="off", **batches
    )
    with pytest.raises(CompressorError, match="no folder"):
        result.save(tmp_path / "absent" / "small.pt")
    with pytest.raises(CompressorError, match=r"takes a torch\.nn\.Module"):
        compressor.compress("network", example, method="l1", **batches)  # type: ignore[arg-type]
    result.save(tmp_path / "small.pt")
    with pytest.raises(CompressorError, match=r"compressor\.load\(path, model\)"):
        compressor.load(tmp_path / "small.pt")
