"""The road of `compress adopt`: weights trained elsewhere become a checkpoint that every other command takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import models
from compressor import checkpoint
from compressor.data import UNLABELLED, Dataset, Preprocessing, load
from compressor.errors import CompressorError, DataError
from compressor.pipeline.normalisation import preprocessing_of
from compressor.pipeline.onnx_file import Inputs, check_answers, open_onnx
from compressor.pipeline.prune import matching_data
from compressor.pipeline.train import architecture_kwargs, check_output, command_line
from compressor.train import evaluate

__all__ = ["Adopted", "adopt_weights"]

# What torchvision's classifiers were trained with; red, green, blue on the 0-1 scale.
_TORCHVISION_MEAN, _TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Adopted:
    """A checkpoint made of weights from elsewhere.

    Attributes:
        path: The checkpoint.
        preprocessing: How images become inputs.
        test_top1: Part of the test images that is right, 0 to 1; None where no data was given.
    """

    path: Path
    preprocessing: Preprocessing
    test_top1: float | None

    def summary(self) -> str:
        """One line for people."""
        channels, height, width = self.preprocessing.size
        accuracy = "not measured (no --data)" if self.test_top1 is None else f"{self.test_top1:.2%}"
        return f"{self.path}: inputs {channels}x{height}x{width}, test accuracy {accuracy}"


def adopt_weights(
    weights: Path,
    *,
    architecture: str | None,
    output: Path,
    architecture_settings: Mapping[str, object] | None = None,
    data: str | None = None,
    inputs: Inputs | None = None,
    unsafe_pickle: bool = False,
    seed: int = 0,
) -> Adopted:
    """Writes a checkpoint made of a state dict, of a pickled network, or of an ONNX file.

    Args:
        weights: What `torch.save` wrote: a state dict, bare or under `state_dict` or `model`; with `unsafe_pickle`
            also a whole network. Or an ONNX file, known by its ending.
        architecture: What `models.build` takes; None for an ONNX file, which brings its own.
        output: The checkpoint to write.
        architecture_settings: Arguments of the network's factory.
        data: What `compressor.data.load` takes: gives classes and preprocessing, and the test accuracy is measured.
        inputs: Normalisation in training; what it leaves out is taken from the data, or is torchvision's.
        unsafe_pickle: Open a pickled network: such a file can run any code.
        seed: Of the validation split that later commands hold out. The weights may have seen these images.

    Raises:
        CompressorError: The file is not usable, the weights do not fit, or the preprocessing is not known.
    """
    check_output(output, source=weights)
    inputs = inputs or Inputs()
    dataset = None if data is None else load(data, seed=seed)
    if dataset is not None and dataset.task is UNLABELLED:
        raise DataError(f"{data} has no labels to measure accuracy by: leave --data out, and give --mean and --std")
    if weights.suffix == ".onnx":
        if architecture is not None or architecture_settings:
            raise CompressorError(f"{weights} brings its own network: leave --arch and --arch-set out")
        adopted = open_onnx(weights, inputs=inputs, dataset=dataset)
    else:
        adopted = _of_weights(weights, architecture, architecture_settings or {}, dataset, inputs, unsafe_pickle)
    classes = () if dataset is None else dataset.classes
    test = None
    if dataset is not None:
        dataset = matching_data(dataset, adopted, seed)
        model = checkpoint.rebuild(adopted)
        check_answers(model, adopted.preprocessing.size, dataset)
        test = evaluate(model, dataset, "test").top1
    record = {
        "command": command_line(),
        "data": data,
        "split_seed": seed,
        "adopted": weights.name,
        "test_top1": test,
        **adopted.record,
    }
    checkpoint.save(replace(adopted, classes=classes, record=record), output)
    return Adopted(output, adopted.preprocessing, test)


def _of_weights(
    weights: Path,
    architecture: str | None,
    architecture_settings: Mapping[str, object],
    dataset: Dataset | None,
    inputs: Inputs,
    unsafe_pickle: bool,
) -> checkpoint.CompressedCheckpoint:
    if architecture is None:
        raise CompressorError(f"{weights} holds weights alone: name the network they belong to with --arch")
    if inputs.image_size is not None:
        raise CompressorError("--image-size is for ONNX files that leave it open; leave it out")
    settings = {
        **({} if dataset is None else architecture_kwargs(architecture, dataset)),
        **architecture_settings,
    }
    return checkpoint.adopt(
        weights,
        architecture=architecture,
        architecture_kwargs=settings,
        preprocessing=_preprocessing(architecture, settings, dataset, inputs),
        unsafe_pickle=unsafe_pickle,
    )


def _preprocessing(
    architecture: str,
    settings: dict[str, Any],
    dataset: Dataset | None,
    inputs: Inputs,
) -> Preprocessing:
    size = models.input_size(architecture, **settings) if dataset is None else dataset.preprocessing.size
    known = None if dataset is None else dataset.preprocessing
    if architecture.startswith("torchvision:") and size[0] == len(_TORCHVISION_MEAN):
        known = Preprocessing(_TORCHVISION_MEAN, _TORCHVISION_STD, size)
    if (inputs.mean is None or inputs.std is None) and known is None:
        raise CompressorError(
            "how images were normalised in training is not known: give --mean and --std, one number per channel on "
            "the 0-1 scale, or --data"
        )
    mean, std = inputs.mean or known.mean, inputs.std or known.std  # type: ignore[union-attr]  # checked above
    return preprocessing_of(mean, std, size)
