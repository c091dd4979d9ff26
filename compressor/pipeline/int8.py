"""What `compress export --int8` needs besides the exporter: real inputs, accuracy and speed before and after."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compressor.data import Dataset, Loader
from compressor.errors import CompressorError
from compressor.pipeline.prune import matching_data
from compressor.pipeline.source import Source
from exporters.int8 import Int8Settings
from runtime.bench import benchmark
from runtime.session import Session

__all__ = ["Int8Accuracy", "calibration", "measure_accuracy", "measure_int8_speed"]

# Enough images that an accuracy near 90 % is known to one percent, few enough for a file of batch 1.
_SCORED_IMAGES = 1000
_ROUNDS, _MIN_TIME_S = 7, 0.15


@dataclass(frozen=True)
class Int8Accuracy:
    """Top-1 of torch's float network and of the int8 file on the same validation images, 0 to 1.

    `metric` says what it is held against: `accuracy` against labels, or `agreement` with another network's answers.
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


@torch.no_grad()
def measure_accuracy(source: Source, file: Path, dataset: Dataset) -> Int8Accuracy:
    """Returns the accuracy of network and file on up to 1000 validation images.

    Raises:
        SessionError: The file does not run.
    """
    session = Session(file, threads=0)
    fixed = session.onnx_session.get_inputs()[0].shape[0]
    size = fixed if isinstance(fixed, int) else 50
    right = np.zeros(2)
    seen = 0
    for images, targets in dataset.batches("val", Loader(size)):
        if len(images) < size or seen >= _SCORED_IMAGES:
            break
        (found,) = session.run([images.numpy()])
        answers = (source.model(images).argmax(1).numpy(), found.argmax(1))
        wanted = (targets if dataset.answers is None else targets.argmax(1)).numpy()
        right += [(answer == wanted).sum() for answer in answers]
        seen += len(images)
    if seen == 0:
        raise CompressorError(f"{dataset.name} has fewer than {size} validation images, the batch of the file")
    return Int8Accuracy(float(right[0] / seen), float(right[1] / seen), seen, dataset.task.name)


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
