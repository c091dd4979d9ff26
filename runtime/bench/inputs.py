"""Makes inputs that fit a model, from what the model itself says about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.results import BenchmarkError

__all__ = ["InputInfo", "make_inputs"]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class InputInfo:
    """One input as ONNX Runtime describes it.

    Attributes:
        name: The input's name.
        type: For instance "tensor(float)".
        shape: Sizes; a string or None where the model leaves one free.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]


def make_inputs(infos: Sequence[InputInfo], *, batch: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Returns an array for every input, the same for the same seed.

    Floating point: standard normal. 8- and 16-bit integers: uniform over the whole range (pixels). Wider
    integers and booleans: 0 or 1, because they are mostly indices and must stay in range.

    Args:
        infos: The model's inputs.
        batch: Samples per run: fills a free first dimension, and must equal a fixed one.
        seed: Seed of the random numbers.

    Raises:
        BenchmarkError: A fixed batch differs from `batch`, a dimension other than the first is free, or an
            input is not a tensor of a type that can be made. Names every such input.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.generic]] = {}
    problems = []
    for info in infos:
        problem = _problem(info, batch)
        if problem:
            problems.append(f"input {info.name!r} {problem}")
            continue
        # Batch 1 of a one-dimensional input says nothing about samples, so its fixed size stands.
        shape = tuple(size if isinstance(size, int) else batch for size in info.shape)
        arrays[info.name] = _random(generator, np.dtype(_DTYPES[info.type]), shape)
    if problems:
        raise BenchmarkError("; ".join(problems))
    return arrays


def _problem(info: InputInfo, batch: int) -> str | None:
    """Returns why no array can be made, or None."""
    if info.type not in _DTYPES:
        return f"has type {info.type}; allowed: {', '.join(_DTYPES)}"
    free = [size or f"dimension {i}" for i, size in enumerate(info.shape) if i and not isinstance(size, int)]
    if free:
        names = ", ".join(str(name) for name in free)
        return f"leaves more than the batch free ({names}); export it with fixed sizes"
    # An input of rank 0 or 1 with a fixed size is not a batch of anything.
    if len(info.shape) >= 2 and isinstance(info.shape[0], int) and info.shape[0] != batch:
        return (
            f"has the fixed batch {info.shape[0]}, asked for was {batch}; "
            f"measure with batch {info.shape[0]} or export with a dynamic batch"
        )
    return None


def _random(generator: np.random.Generator, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    if dtype.kind == "f":
        return np.asarray(generator.standard_normal(shape)).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype.name)
        return np.asarray(generator.integers(limits.min, limits.max, size=shape, endpoint=True)).astype(dtype)
    return np.asarray(generator.integers(0, 2, size=shape)).astype(dtype)
