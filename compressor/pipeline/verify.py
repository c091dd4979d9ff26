"""The road of `compress verify`: a network and its file in, a report of how far they differ out."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch.nn.functional import interpolate

from compressor.data import Loader, load
from compressor.data.files import whole_file
from compressor.errors import CompressorError, DataError, PlanError
from compressor.methods.fbs import FBS, layers, set_density
from compressor.pipeline.layout import as_laid_out
from compressor.pipeline.rounding import rounded_as
from compressor.pipeline.source import Source, open_source
from exporters.execution import Array
from exporters.image_input import ImageInput
from exporters.inspect import inspect_onnx
from exporters.metadata import read_metadata, write_metadata
from exporters.stress import stress_images, stress_inputs
from exporters.verify import VerifyReport, verify

__all__ = ["record_report", "verify_network"]

# Of each kind of extreme input, beside the images of a data set.
_EXTREMES = 8


def verify_network(
    name: str, file: Path, *, data: str | None = None, num_images: int = 64, untrained: bool = False
) -> VerifyReport:
    """Compares torch with stock ONNX Runtime and every instruction set of the native library.

    Args:
        name: A checkpoint's path.
        file: The ONNX file that was exported from it; an FBS network is compared at the file's density, with the
            channels that were left in the file.
        data: Its validation images are the inputs, normalised as the checkpoint says, or as uint8 where the file does
            that itself; extreme inputs follow. None takes random and extreme inputs.
        num_images: How many of them.
        untrained: `name` is an architecture.

    Raises:
        CompressorError: The checkpoint or the data is not usable, or the file is another network's; or the file is
            int8, which only real images can judge, and there is no data.
        ExportError: The file cannot be read or run, or its input does not fit.
    """
    source = open_source(name, untrained=untrained)
    metadata = inspect_onnx(file).metadata
    density = metadata.get("density")
    if isinstance(density, int | float):
        if untrained:
            source = replace(source, model=FBS(density=float(density)).attach(source.model, source.example()).eval())
        elif layers(source.model):
            set_density(source.model, float(density))
        else:
            raise CompressorError(
                f"{file} has FBS layers and {name} has none: give the checkpoint that the file was exported from "
                "(predictors that 'compress export --method fbs' fitted are in no checkpoint)"
            )
    source = rounded_as(source, metadata)
    if isinstance(layout := metadata.get("winners"), dict):
        try:
            source = replace(source, model=as_laid_out(source.model, layout, source.example()))
        except PlanError as error:
            raise CompressorError(
                f"{file} was not exported from {name}, whose channels are others; give the checkpoint that it was "
                f"exported from ({error})"
            ) from error
    is_int8 = "int8" in metadata
    if is_int8 and data is None:
        raise CompressorError(f"{file} is int8: its ranges hold for real images alone; add --data")
    if data is None:
        return verify(source.model, file)
    values = metadata.get("input")
    image = ImageInput.from_json(values) if isinstance(values, dict) else None
    images = _images(source, data, num_images)
    if image is not None:
        images = _as_pixels(images, image)
    extremes = {} if is_int8 else _extremes(images)
    return verify(source.model, file, {"validation images": images, **extremes})


def record_report(file: Path, json_file: Path, report: VerifyReport) -> str:
    """Changes `file`: the digest of a report that passed goes into its metadata; returns the digest.

    Args:
        file: The ONNX file that was verified.
        json_file: The report as it was written; `sha256sum` gives the same digest.
        report: The same report.

    Raises:
        OSError: One of them cannot be read or written.
    """
    digest = hashlib.sha256(json_file.read_bytes()).hexdigest()
    model = ModelProto()
    model.ParseFromString(file.read_bytes())
    entry = {
        "sha256": digest,
        "relative_error": report.relative_error,
        "tolerance": report.tolerance,
        "top1_agreement": report.top1_agreement,
        "paths": list(report.paths),
    }
    if report.typical:
        entry["typical_error"] = max(judged.error for judged in report.typical)
    write_metadata(model, {**read_metadata(model), "verify": entry})
    with whole_file(file) as stream:
        stream.write(model.SerializeToString(deterministic=True))
    return digest


def _images(source: Source, data: str, num_images: int) -> Array:
    if source.saved is None:
        raise CompressorError(f"{source.name} is untrained: it has no preprocessing; leave --data away")
    dataset = replace(load(data), preprocessing=source.saved.preprocessing)
    images, _ = next(iter(dataset.batches("val", Loader(num_images))))
    if tuple(images.shape[1:]) != source.size:
        raise DataError(f"{data} has images of {tuple(images.shape[1:])}, {source.name} takes {source.size}")
    found: Array = images.numpy()
    return found


def _as_pixels(images: Array, image: ImageInput) -> Array:
    """Normalised images (N, C, H, W) as the uint8 images (N, H, W, C) that a file with preprocessing takes."""
    mean, std = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (image.mean, image.std))
    scaled = torch.from_numpy(255 * (images * std + mean))
    if image.source is not None:
        scaled = interpolate(scaled, size=image.source, mode="bilinear", align_corners=False)
    pixels: Array = scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def _extremes(images: Array) -> dict[str, Array]:
    """Stress inputs in the form of `images`, under their own names."""
    shape = images.shape[1:]
    if images.dtype == np.uint8:
        return dict(stress_images(shape, _EXTREMES))
    return dict(stress_inputs(shape, _EXTREMES))
