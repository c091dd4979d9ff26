"""The road of `compress verify`: a network and its file in, a report of how far they differ out."""

from dataclasses import replace
from pathlib import Path

from compressor.data import Loader, load
from compressor.errors import CompressorError, DataError
from compressor.methods.fbs import FBS, layers, set_density
from compressor.pipeline.source import Source, open_source
from exporters.execution import Array
from exporters.inspect import inspect_onnx
from exporters.verify import VerifyReport, verify

__all__ = ["verify_network"]


def verify_network(
    name: str, file: Path, *, data: str | None = None, num_images: int = 64, untrained: bool = False
) -> VerifyReport:
    """Compares torch with stock ONNX Runtime and every instruction set of the native library.

    Args:
        name: A checkpoint's path.
        file: The ONNX file that was exported from it; an FBS network is compared at the file's density.
        data: Its validation images are the inputs, normalised as the checkpoint says; None takes random and
            extreme inputs.
        num_images: How many of them.
        untrained: `name` is an architecture.

    Raises:
        CompressorError: The checkpoint or the data is not usable.
        ExportError: The file cannot be read or run, or its input does not fit.
    """
    source = open_source(name, untrained=untrained)
    density = inspect_onnx(file).metadata.get("density")
    if isinstance(density, int | float):
        if untrained:
            source = replace(source, model=FBS(density=float(density)).attach(source.model, source.example()).eval())
        elif layers(source.model):
            set_density(source.model, float(density))
    inputs = None if data is None else {"validation images": _images(source, data, num_images)}
    return verify(source.model, file, inputs)


def _images(source: Source, data: str, num_images: int) -> Array:
    if source.saved is None:
        raise CompressorError(f"{source.name} is untrained: it has no preprocessing; leave --data away")
    dataset = replace(load(data), preprocessing=source.saved.preprocessing)
    images, _ = next(iter(dataset.batches("val", Loader(num_images))))
    if tuple(images.shape[1:]) != source.size:
        raise DataError(f"{data} has images of {tuple(images.shape[1:])}, {source.name} takes {source.size}")
    found: Array = images.numpy()
    return found
