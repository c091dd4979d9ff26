"""Loss and metric of the caller: a small segmentation network on the caller's own batches."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compressor.data import CLASSIFICATION, Task, accuracy, from_loaders
from compressor.errors import CompressorError, DataError
from compressor.train import TrainSettings, evaluate, train

SETTINGS = TrainSettings(epochs=6, batch_size=1, peak_lr=0.1, precision="32", keep="last")


class MeanIoU:
    """Mean over the classes of intersection / union, over all pixels of a split."""

    def reset(self) -> None:
        self.counts = torch.zeros(2, 2)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        places = labels * 2 + logits.argmax(1)
        self.counts += torch.bincount(places.flatten(), minlength=4).reshape(2, 2)

    def compute(self) -> torch.Tensor:
        both = self.counts.diag()
        return (both / (self.counts.sum(0) + self.counts.sum(1) - both)).mean()


def pictures(count: int, seed: int) -> TensorDataset:
    """A bright square on a dark ground; the label of a pixel says whether it belongs to the square."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(count, 12, 12, dtype=torch.int64)
    for label in labels:
        y, x = torch.randint(0, 7, (2,), generator=generator).tolist()
        label[y : y + 5, x : x + 5] = 1
    noise = torch.randn(count, 1, 12, 12, generator=generator)
    return TensorDataset(noise + 1.5 * labels[:, None], labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    hidden = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Conv2d(8, 2, 3, padding=1))


def batches(count: int, seed: int) -> DataLoader[Any]:
    return DataLoader(pictures(count, seed), batch_size=8)


def test_a_segmentation_network_learns_by_its_own_metric() -> None:
    example = torch.zeros(1, 1, 12, 12)
    task = Task(F.cross_entropy, MeanIoU(), "mean IoU")
    data = from_loaders(batches(48, 1), batches(20, 2), example=example, task=task)
    model = network()
    before = evaluate(model, data, "val")
    record = train(model, data, settings=SETTINGS)
    after = evaluate(model, data, "val")
    assert after.top1 == record.val_top1
    assert after.top1 > max(before.top1, 0.6)

    metric = MeanIoU()
    metric.reset()
    images, labels = pictures(20, 2).tensors
    metric.update(model.eval()(images), labels)
    assert after.top1 == pytest.approx(metric.compute().item()), "over the split at once, not a mean over batches"
    assert after.num_images == 20


def test_a_function_may_return_values_per_sample_or_their_mean() -> None:
    example = torch.zeros(1, 1, 12, 12)
    per_sample = from_loaders(batches(8, 1), batches(20, 2), example=example, task=CLASSIFICATION)
    mean = dataclasses.replace(
        per_sample, task=Task(F.cross_entropy, lambda logits, labels: accuracy(logits, labels).mean().item())
    )
    model = network()
    images, labels = pictures(20, 2).tensors
    expected = (model.eval()(images).argmax(1) == labels).double().mean().item()
    assert evaluate(model, per_sample, "val").top1 == pytest.approx(expected)
    assert evaluate(model, mean, "val").top1 == pytest.approx(expected)


def test_nested_inputs_and_targets() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"out": self.body(inputs["image"])}

    images, labels = pictures(16, 3).tensors
    named: list[Any] = [({"image": images[i : i + 8]}, {"mask": labels[i : i + 8]}) for i in (0, 8)]
    task = Task(
        lambda outputs, targets: F.cross_entropy(outputs["out"], targets["mask"]),
        lambda outputs, targets: accuracy(outputs["out"], targets["mask"]),
    )
    data = from_loaders(named, named, example=images, task=task)
    record = train(Named(), data, settings=dataclasses.replace(SETTINGS, epochs=1, precision="auto"))
    assert 0 <= record.val_top1 <= 1


def test_label_smoothing_is_refused_with_another_loss() -> None:
    example = torch.zeros(1, 1, 12, 12)
    task = Task(lambda outputs, targets: F.cross_entropy(outputs, targets), accuracy)
    data = from_loaders(batches(8, 1), batches(8, 2), example=example, task=task)
    with pytest.raises(CompressorError, match="label_smoothing"):
        train(network(), data, settings=dataclasses.replace(SETTINGS, label_smoothing=0.1))


def test_unusable_loaders_and_metrics_are_refused() -> None:
    example = torch.zeros(1, 1, 12, 12)
    good = batches(8, 1)
    with pytest.raises(DataError, match="once only"):
        from_loaders(iter([]), good, example=example)
    with pytest.raises(DataError, match="is empty"):
        from_loaders([], good, example=example)
    wrong: list[Any] = [torch.zeros(2, 1, 12, 12)]
    with pytest.raises(DataError, match="pair"):
        evaluate(network(), from_loaders(good, wrong, example=example), "val")
    task = Task(F.cross_entropy, lambda outputs, targets: torch.zeros(3))
    with pytest.raises(CompressorError, match="one value per sample"):
        evaluate(network(), from_loaders(good, good, example=example, task=task), "val")
