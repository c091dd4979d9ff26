"""What `compress export --int8` needs besides the exporter: real inputs, accuracy and speed before and after."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.data import Batch, Dataset, Loader, Preprocessing, Split
from compressor.errors import CompressorError
from compressor.pipeline.prune import matching_data
from compressor.pipeline.source import Source
from compressor.train import evaluate
from exporters.int8 import Int8Settings
from runtime.bench import benchmark
from runtime.session import Session

__all__ = ["Int8Accuracy", "calibration", "measure_accuracy", "measure_int8_speed"]

# Enough images that an accuracy near 90 % is known to one percent, few enough for a file of batch 1.
_SCORED_IMAGES = 1000
_ROUNDS, _MIN_TIME_S = 7, 0.15


@dataclass(frozen=True)
class Int8Accuracy:
    """The task's metric for torch's float network and for the int8 file, on the same validation images.

    `metric` is its name: `accuracy` against labels, `agreement` with another network's answers, or the task's own.
    """

    before: float
    after: float
    images: int
    metric: str = "accuracy"

    def summary(self) -> str:
        """One line for people."""
        return (
            f"int8: {self.metric} {self.before:.2%} -> {self.after:.2%} on {self.images} validation images "
            f"({100 * (self.after - self.before):+.2f} points)"
        )


def calibration(source: Source, data: str | None, *, method: str, num_images: int) -> tuple[Int8Settings, Dataset]:
    """Returns calibration inputs, training images as the network sees them, and the data they come from.

    Args:
        source: A trained network.
        data: What `compressor.data.load` takes.
        method: A name of `exporters.int8.CALIBRATIONS`.
        num_images: How many images.

    Raises:
        CompressorError: The network is untrained, the data is missing or does not fit.
        ExportError: There is no such calibration.
    """
    if source.saved is None:
        raise CompressorError(f"--int8 measures the ranges of a trained network; {source.name} is untrained")
    if data is None:
        raise CompressorError("--int8 measures ranges and accuracy on real images: add --data, such as digits")
    dataset = matching_data(data, source.saved, 0)
    batches = dataset.batches("train", Loader(num_images, shuffle=True))
    images, _ = next(iter(batches), (None, None))
    if images is None:  # fewer than one whole batch
        images, _ = next(iter(dataset.batches("train", Loader(num_images))))
    return Int8Settings(method, images.numpy()), dataset


def measure_accuracy(source: Source, file: Path, dataset: Dataset) -> Int8Accuracy:
    """Returns the task's metric of network and file on up to 1000 validation images, in whole batches of the file.

    Raises:
        CompressorError: There are fewer images than one batch; or the metric returns what it may not.
        SessionError: The file does not run.
    """
    session = Session(file, threads=0)
    fixed = session.onnx_session.get_inputs()[0].shape[0]
    size = fixed if isinstance(fixed, int) else 50
    if len(dataset.val) < size:
        raise CompressorError(f"{dataset.name} has fewer than {size} validation images, the batch of the file")
    scored = replace(dataset, val=_WholeBatches(dataset.val, min(len(dataset.val), max(size, _SCORED_IMAGES)) // size))
    before, after = (evaluate(network, scored, "val", batch_size=size) for network in (source.model, _OfFile(session)))
    return Int8Accuracy(before.top1, after.top1, after.num_images, dataset.task.name)


class _OfFile(nn.Module):
    """An ONNX file as a network, for what asks for one."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.nothing = nn.Parameter(torch.empty(0), requires_grad=False)  # tells the device

    def forward(self, images: Tensor) -> Tensor:
        (found,) = self.session.run([images.numpy()])
        return torch.from_numpy(found)


class _WholeBatches(Split):
    """The first few batches of a split, none of them incomplete."""

    def __init__(self, split: Split, count: int) -> None:
        self.split = split
        self.count = count

    def __len__(self) -> int:
        return len(self.split)

    def num_batches(self, _loader: Loader) -> int:
        return self.count

    def batches(self, loader: Loader, preprocessing: Preprocessing) -> Iterator[Batch]:
        return islice(self.split.batches(loader, preprocessing), self.count)


def measure_int8_speed(float_file: Path, int8_file: Path, *, batch: int) -> str:
    """Returns one line: how fast the int8 file runs here, against the float file of the same network."""
    before, after = benchmark(
        [float_file, int8_file], threads=(1,), batch=batch, rounds=_ROUNDS, min_time_s=_MIN_TIME_S
    )
    assert after.speedup_to_first is not None
    ratio = after.speedup_to_first.median
    verdict = "faster" if ratio >= 1 else "SLOWER: keep float32 on this processor"
    return (
        f"int8: {ratio:.2f}x float32's speed here ({verdict}; {before.latency_ms.p50:.2f} ms -> "
        f"{after.latency_ms.p50:.2f} ms, one thread, batch {batch})"
    )
