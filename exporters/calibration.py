"""Real inputs for the int8 exports: settings, and the ranges that a file's tensors have on them.

The ranges are onnxruntime.quantization's.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from exporters.errors import ExportError

__all__ = [
    "CALIBRATIONS",
    "PERCENTILE",
    "Array",
    "Int8Settings",
    "Reader",
    "finite_ranges",
    "method_of",
    "quiet",
    "ranges_of",
]

Array = npt.NDArray[np.float32]

CALIBRATIONS = {
    "min-max": "smallest and largest value seen",
    "percentile": "the range that holds all but 0.01 % of the values seen",
    "entropy": "the range whose 8-bit histogram keeps most information (least Kullback-Leibler divergence)",
}
PERCENTILE = 99.99
"""As the table above says."""

_IMAGES_AT_A_TIME = 32  # whose tensors are held in memory together, for histograms


@dataclass(frozen=True)
class Int8Settings:
    """How ranges are found.

    Attributes:
        calibration: One of `CALIBRATIONS`.
        images: Real inputs (N, ...), through the network's own preprocessing; every one of them is run.
    """

    calibration: str
    images: Array

    def __post_init__(self) -> None:
        """Checks the name.

        Raises:
            ExportError: It is not in `CALIBRATIONS`.
        """
        if self.calibration not in CALIBRATIONS:
            raise ExportError(f"unknown calibration '{self.calibration}'; choose from: {', '.join(CALIBRATIONS)}")


def method_of(calibration: str) -> Any:  # Any: onnxruntime ships no types
    """Returns the onnxruntime.quantization.CalibrationMethod of a name in `CALIBRATIONS`."""
    from onnxruntime import quantization as ort

    return {
        "min-max": ort.CalibrationMethod.MinMax,
        "percentile": ort.CalibrationMethod.Percentile,
        "entropy": ort.CalibrationMethod.Entropy,
    }[calibration]


def ranges_of(path: Path, settings: Int8Settings, ops: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns the least and the largest value of each float tensor that nodes of the types `ops` read or write.

    Args:
        path: A file that stock ONNX Runtime runs; others are written beside it.
        settings: Calibration and the inputs for it.
        ops: Types of nodes.

    Raises:
        ExportError: There are fewer inputs than the file takes at a time, or a tensor is not finite on one of them.
    """
    from onnxruntime.quantization.calibrate import create_calibrator

    value = onnx.load(path, load_external_data=False).graph.input[0]
    with quiet():
        calibrator = create_calibrator(
            path,
            list(ops),
            augmented_model_path=str(path.with_suffix(".calibration.onnx")),
            calibrate_method=method_of(settings.calibration),
            extra_options={"symmetric": False, "percentile": PERCENTILE},
        )
        step = max(_IMAGES_AT_A_TIME, value.type.tensor_type.shape.dim[0].dim_value)
        with finite_ranges(len(settings.images)):
            for start in range(0, max(1, len(settings.images)), step):
                images = settings.images[start : start + step]
                if start == 0 or len(images) == step:
                    calibrator.collect_data(Reader(value, images))
            found = calibrator.compute_data()
            ends = {name: [float(np.asarray(end).item()) for end in data.range_value] for name, data in found.items()}
            if not np.isfinite(list(ends.values())).all():
                raise ValueError("not finite")
    return {name: (low, high) for name, (low, high) in ends.items()}


@contextlib.contextmanager
def finite_ranges(images: int) -> Iterator[None]:
    """Inside, ranges are found on so many images; complaints of numbers that have none become our error.

    Raises:
        ExportError: A tensor is infinite or NaN on one of the images.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's of the same
            yield
    except (ValueError, AssertionError) as error:
        if not any(words in str(error) for words in ("finite", "scale issue")):
            raise
        raise ExportError(
            f"the network gives numbers that are infinite or NaN on one of the {images} calibration images, so there "
            "is no range to round; train it further, with a lower --lr, or leave --int8 out"
        ) from error


class Reader:
    """Hands out the calibration inputs, as many at a time as the model takes."""

    def __init__(self, value: onnx.ValueInfoProto, images: Array) -> None:
        dims = value.type.tensor_type.shape.dim
        size = dims[0].dim_value or min(32, max(1, len(images)))  # a dynamic batch: enough to keep the cores busy
        if tuple(dim.dim_value for dim in list(dims)[1:]) != images.shape[1:] or len(images) < size:
            raise ExportError(
                f"calibration was given {len(images)} inputs of {images.shape[1:]}; the file takes {size} at a time "
                f"of {tuple(dim.dim_value for dim in list(dims)[1:])}"
            )
        starts = range(0, len(images) - size + 1, size)
        self._batches = iter([{value.name: np.ascontiguousarray(images[start : start + size])} for start in starts])

    def get_next(self) -> Mapping[str, Array] | None:
        """The next batch by input name; None at the end."""
        return next(self._batches, None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what onnxruntime.quantization prints, and the advice it gives through the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
