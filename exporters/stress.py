"""Inputs that bring out differences between two implementations of one network."""

from collections.abc import Sequence

import numpy as np

from exporters.execution import Array

__all__ = ["ZEROS", "stress_inputs"]

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
