"""Inputs that bring out differences between two implementations of one network."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exporters.execution import Array

__all__ = ["ZEROS", "stress_images", "stress_inputs"]

ZEROS = "zeros"
"""Name of the batch that says nothing about most of a network."""


def stress_inputs(shape: Sequence[int], batch: int, *, seed: int = 0) -> dict[str, Array]:
    """Batches (batch, *shape) by what they are: ordinary, empty, saturated, too large.

    Normalised images are about N(0, 1) and stay within ±3, so `extremes` is what a saturated image looks
    like.
    """
    generator = np.random.default_rng(seed)
    full = (batch, *shape)
    batches = {
        "normal": generator.normal(size=full),
        "normal again": generator.normal(size=full),
        "uniform": generator.uniform(0.0, 1.0, size=full),
        ZEROS: np.zeros(full),
        "extremes": generator.choice([-3.0, 3.0], size=full),
        "constant": np.full(full, 3.0),
        "large": 4.0 * generator.normal(size=full),
    }
    return {name: values.astype(np.float32) for name, values in batches.items()}


def stress_images(shape: Sequence[int], batch: int, *, seed: int = 0) -> dict[str, npt.NDArray[np.uint8]]:
    """The same for files that take uint8 images: noise, black, white, and black and white pixels."""
    generator = np.random.default_rng(seed)
    full = (batch, *shape)
    batches = {
        "normal": np.clip(generator.normal(128.0, 60.0, size=full), 0, 255),
        "uniform": generator.integers(0, 256, size=full),
        ZEROS: np.zeros(full),
        "extremes": generator.choice([0, 255], size=full),
        "constant": np.full(full, 255),
    }
    return {name: values.astype(np.uint8) for name, values in batches.items()}
