"""What int8 costs is counted by the task's own metric, whatever its targets are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressor.data import CLASSIFICATION, Dataset, Preprocessing, Task, TensorSplit
from compressor.errors import CompressorError
from compressor.pipeline.int8 import measure_accuracy
from compressor.pipeline.source import Source


@dataclass
class Halves:
    """Stands for `runtime.Session`: a file of batch 4 that halves the network's answers and adds 1 to the first."""

    network: nn.Module

    @property
    def onnx_session(self) -> Any:
        return type("Fake", (), {"get_inputs": lambda _: [type("Input", (), {"shape": [4, 1, 4, 4]})]})()

    def run(self, inputs: list[Any]) -> list[Any]:
        assert len(inputs[0]) == 4
        with torch.no_grad():
            answers = self.network(torch.from_numpy(inputs[0])) / 2
        answers[:, 0] += 1
        return [answers.numpy()]


class Distance:
    """Minus the root of the mean square over a split: no mean over samples or batches."""

    def reset(self) -> None:
        self.squares: list[torch.Tensor] = []

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.squares.append((outputs - targets).square().flatten())

    def compute(self) -> float:
        return -torch.cat(self.squares).mean().sqrt().item()


def pixels(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)[:, :3] / 2


def rounded(images: torch.Tensor) -> torch.Tensor:
    return (images.mean(1) > 0).long()


TASKS = {
    "labels": (CLASSIFICATION, None),
    "a number for each answer": (Task(F.mse_loss, lambda found, wanted: -(found - wanted).abs().mean(1)), pixels),
    "a metric of the whole split": (Task(F.mse_loss, Distance()), pixels),
    "a label for each place": (CLASSIFICATION, rounded),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_own_metric_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, answers = TASKS[name]
    torch.manual_seed(0)
    images = torch.randint(0, 255, (11, 1, 4, 4)).to(torch.uint8)
    split = TensorSplit(images, torch.arange(11) % 3)
    preprocessing = Preprocessing((0.5,), (0.3,), (1, 4, 4))
    data = Dataset("noise", ("a", "b", "c"), preprocessing, split, split, split, task, answers)
    network = nn.Conv2d(1, 3, 1) if name.endswith("place") else nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    file = Halves(network)
    monkeypatch.setattr("compressor.pipeline.int8.Session", lambda *_, **__: file)
    found = measure_accuracy(Source("net", network.eval(), None, (1, 4, 4)), Path("m.onnx"), data)
    assert found.images == 8, "two whole batches of the file"

    inputs = (images[:8].float() / 255 - 0.5) / 0.3
    targets = torch.arange(8) % 3 if answers is None else answers(inputs)
    with torch.no_grad():
        outputs = (
            network(inputs),
            torch.cat([torch.from_numpy(file.run([part.numpy()])[0]) for part in inputs.split(4)]),
        )
    for value, output in zip((found.before, found.after), outputs, strict=True):
        if isinstance(task.metric, Distance):
            task.metric.reset()
            task.metric.update(output, targets)
            assert value == pytest.approx(task.metric.compute(), rel=1e-5)
        else:
            assert value == pytest.approx(float(task.metric(output, targets).mean()), rel=1e-5)  # type: ignore[operator]


def test_fewer_images_than_one_batch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    split = TensorSplit(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    data = Dataset("noise", ("a", "b"), Preprocessing((0.5,), (0.3,), (1, 4, 4)), split, split, split)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    monkeypatch.setattr("compressor.pipeline.int8.Session", lambda *_, **__: Halves(network))
    with pytest.raises(CompressorError, match="fewer than 4 validation images"):
        measure_accuracy(Source("net", network, None, (1, 4, 4)), Path("m.onnx"), data)
