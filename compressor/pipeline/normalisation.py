"""Normalisation as a user gives it, checked."""

from compressor.data import Preprocessing
from compressor.errors import CompressorError

__all__ = ["preprocessing_of"]


def preprocessing_of(mean: tuple[float, ...], std: tuple[float, ...], size: tuple[int, int, int]) -> Preprocessing:
    """Returns the preprocessing of a network.

    Args:
        mean: Per channel on the 0-1 scale.
        std: The same.
        size: (channels, height, width) of one image.

    Raises:
        CompressorError: Another number of channels, or a std that is not above 0.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != size[0]:
            raise CompressorError(f"--{name} has {len(values)} numbers; the network takes {size[0]} channels")
    if not min(std) > 0:
        raise CompressorError(f"--std {','.join(map(str, std))}: every number lies above 0")
    return Preprocessing(tuple(mean), tuple(std), size)
