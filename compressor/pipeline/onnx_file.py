"""From an ONNX file without source to a checkpoint like any other: read, compared with the file, described.

The comparison is not optional. The file's own outputs in ONNX Runtime are what the torch network must give, for single
images and for batches; where it does not, nothing comes of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

from compressor import checkpoint
from compressor.data import UNLABELLED, Dataset, Preprocessing, load
from compressor.errors import CompressorError, OnnxError
from compressor.onnx_in import ReadNetwork, build, program_to_json, read_network
from compressor.pipeline.normalisation import preprocessing_of
from compressor.pipeline.train import check_output
from exporters.execution import Array, execution_paths
from exporters.load import load_onnx
from exporters.metadata import read_metadata
from exporters.stress import ZEROS, stress_inputs

__all__ = ["TOLERANCE", "Inputs", "check_answers", "open_onnx", "prunable"]

TOLERANCE = 1e-4
"""Largest difference allowed, as a fraction of the largest output: float32 sums in another order."""

_IMAGES = 3  # in the batches that are compared
# What they are; a network that is read wrongly is wrong on all of them.
_COMPARED = ("normal", "extremes", ZEROS)


@dataclass(frozen=True)
class Inputs:
    """What a user says about a file's images.

    Attributes:
        mean: Per channel on the 0-1 scale, as in training; None: as the file's metadata or the data says.
        std: The same.
        image_size: Height and width, where the file leaves them open.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: tuple[int, int] | None = None


def open_onnx(path: Path, *, inputs: Inputs, dataset: Dataset | None = None) -> checkpoint.CompressedCheckpoint:
    """Returns a checkpoint, held in memory, of the network in an ONNX file.

    Args:
        path: The file.
        inputs: What is known of the images it takes.
        dataset: Gives classes, and their normalisation where it has labels and nobody else says.

    Raises:
        ExportError: The file is damaged, incomplete, or not ONNX.
        OnnxError: It holds what cannot be read, or what was read gives other numbers than the file.
        CompressorError: Its normalisation is not known, or it answers other classes than the data has.
    """
    model = load_onnx(path)
    try:
        read = read_network(model, image_size=inputs.image_size)
        network = build(read.program)
        network.load_state_dict(read.state)
        difference = _compared(network.eval(), path, read)
    except OnnxError as error:
        raise OnnxError(f"{path}: {error}") from error
    if dataset is not None:
        check_answers(network, read.size, dataset)
    return checkpoint.CompressedCheckpoint(
        architecture=f"{checkpoint.ONNX}{path.stem}",
        architecture_kwargs={"program": program_to_json(read.program)},
        preprocessing=_preprocessing(path, model, read, inputs, dataset),
        classes=() if dataset is None else dataset.classes,
        state=read.state,
        record={"adopted": path.name, "max_difference": difference},
    )


def prunable(
    source: Path, *, data: str | None, inputs: Inputs, output: Path, seed: int
) -> tuple[Path | checkpoint.CompressedCheckpoint, str | Dataset | None]:
    """Returns what `compress prune` takes: a checkpoint's path and its data as they are, or an ONNX file opened.

    Args:
        source: A checkpoint, or an ONNX file by its ending.
        data: What `compressor.data.load` takes.
        inputs: What is known of the file's images.
        output: Of the run; looked at before the work of opening a file is done.
        seed: Of the validation split of a file's data.

    Raises:
        CompressorError: As `open_onnx`; the data is missing; or `inputs` are given for a checkpoint, which has its own.
    """
    if source.suffix != ".onnx":
        if inputs != Inputs():
            raise CompressorError(f"{source} says itself what its inputs are: leave --mean, --std and --image-size out")
        return source, data
    check_output(output, source=source)
    if data is None:
        raise CompressorError(
            "pruning measures and trains the network, so it needs data: add --data, such as images:FOLDER where there "
            "are no labels"
        )
    dataset = load(data, seed=seed)
    return open_onnx(source, inputs=inputs, dataset=dataset), dataset


@torch.no_grad()
def _compared(network: nn.Module, path: Path, read: ReadNetwork) -> float:
    """Largest difference between network and file, as a fraction of the largest output of a batch.

    Raises:
        OnnxError: ONNX Runtime cannot run the file, or the difference is above `TOLERANCE`.
    """
    fixed = read.batch or _IMAGES
    count = -(-_IMAGES // fixed) * fixed
    worst, of_file = 0.0, _opened(path, fixed)
    stress = stress_inputs(read.size, count)
    for name in _COMPARED:
        images = stress[name]
        wanted = of_file(images)
        # Whether images disturb each other does not depend on what they show.
        for together in dict.fromkeys((fixed, count, 1) if name == _COMPARED[0] else (fixed,)):
            try:
                difference = _difference(wanted, _answers(network, images, together))
            except (OnnxError, RuntimeError, ValueError, IndexError) as error:
                if together != fixed:
                    raise _batch_inside(fixed) from error
                text = " ".join(str(error).split())
                raise OnnxError(f"the network read from the file does not run: {text}") from error
            if not difference <= TOLERANCE and together != fixed:
                raise _batch_inside(fixed)
            if not difference <= TOLERANCE:
                raise OnnxError(
                    f"the network read from the file differs from it by {difference:.1e} of the largest output (inputs "
                    f"'{name}'), more than {TOLERANCE:.0e}, so it is not used"
                )
            worst = max(worst, difference)
    return worst


def _batch_inside(fixed: int) -> OnnxError:
    return OnnxError(
        f"the file has its batch size written inside: the network is right for {fixed} images at a time only; export "
        "it with a dynamic batch"
    )


def _opened(path: Path, fixed: int) -> Callable[[Array], Array]:
    """What gives the file's own answers, in stock ONNX Runtime, `fixed` images at a time."""
    (stock,) = execution_paths([])
    try:
        runner = stock.open(path)
    except Exception as error:  # ONNX Runtime raises its own types
        raise OnnxError(f"ONNX Runtime cannot load the file: {' '.join(str(error).split())}") from error

    def answers(images: Array) -> Array:
        try:
            return np.concatenate([runner(images[at : at + fixed])[0] for at in range(0, len(images), fixed)])
        except Exception as error:  # the same
            raise OnnxError(f"ONNX Runtime cannot run the file: {' '.join(str(error).split())}") from error

    return answers


def _answers(network: nn.Module, images: Array, together: int) -> Array:
    parts = [network(torch.from_numpy(images[at : at + together])) for at in range(0, len(images), together)]
    return torch.cat(parts).numpy()


def _difference(wanted: Array, found: Array) -> float:
    if wanted.shape != found.shape:
        raise OnnxError(f"the file returns {wanted.shape}, the network read from it {found.shape}")
    finite = np.isfinite(wanted)
    if not finite.any() or not np.array_equal(finite, np.isfinite(found)):
        return float("inf") if finite.any() else 0.0
    scale = float(np.abs(wanted[finite]).max()) or 1.0
    return float(np.abs(wanted[finite].astype(np.float64) - found[finite]).max()) / scale


@torch.no_grad()
def check_answers(network: nn.Module, size: tuple[int, int, int], dataset: Dataset) -> None:
    """Raises CompressorError where a network does not answer an image with one number per class of the data.

    Args:
        network: In evaluation mode.
        size: (channels, height, width) of one image.
        dataset: Its classes count; without any, a vector of any length will do.
    """
    answers = network(torch.zeros(1, *size))
    if not isinstance(answers, torch.Tensor) or answers.shape != (1, len(dataset.classes) or answers.shape[-1]):
        came = tuple(answers.shape) if isinstance(answers, torch.Tensor) else type(answers).__name__
        raise CompressorError(
            f"the network returns {came} for one image; {dataset.name} has {len(dataset.classes) or 'no'} classes"
        )


def _preprocessing(
    path: Path, model: ModelProto, read: ReadNetwork, inputs: Inputs, dataset: Dataset | None
) -> Preprocessing:
    """What the user says goes before what the file says, and that before what labelled data has."""
    mean, std = inputs.mean, inputs.std
    told = read_metadata(model).get("preprocessing")
    if isinstance(told, dict):
        mean, std = mean or tuple(told.get("mean", ())) or None, std or tuple(told.get("std", ())) or None
    if dataset is not None and dataset.task is not UNLABELLED:
        mean, std = mean or dataset.preprocessing.mean, std or dataset.preprocessing.std
    if mean is None or std is None:
        raise CompressorError(
            f"{path} does not say how images were normalised in training: give --mean and --std, one number per "
            "channel on the 0-1 scale"
        )
    return preprocessing_of(mean, std, read.size)
