"""The road of `compress adopt`: weights trained elsewhere become a checkpoint that every other command takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import models
from compressor import checkpoint
from compressor.data import Dataset, Preprocessing, load
from compressor.errors import CompressorError
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
    architecture: str,
    output: Path,
    architecture_settings: Mapping[str, object] | None = None,
    data: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    unsafe_pickle: bool = False,
    seed: int = 0,
) -> Adopted:
    """Writes a checkpoint made of a state dict, or of a pickled network.

    Args:
        weights: What `torch.save` wrote: a state dict, bare or under `state_dict` or `model`; with `unsafe_pickle`
            also a whole network.
        architecture: What `models.build` takes.
        output: The checkpoint to write.
        architecture_settings: Arguments of the network's factory.
        data: What `compressor.data.load` takes: gives classes and preprocessing, and the test accuracy is measured.
        mean: Per channel on the 0-1 scale, as in training; None takes the data's, or torchvision's.
        std: The same.
        unsafe_pickle: Open a pickled network: such a file can run any code.
        seed: Of the validation split that later commands hold out. The weights may have seen these images.

    Raises:
        CompressorError: The file is not usable, the weights do not fit, or the preprocessing is not known.
    """
    check_output(output, source=weights)
    dataset = None if data is None else load(data, seed=seed)
    settings = {
        **({} if dataset is None else architecture_kwargs(architecture, dataset)),
        **(architecture_settings or {}),
    }
    preprocessing = _preprocessing(architecture, settings, dataset, mean, std)
    adopted = checkpoint.adopt(
        weights,
        architecture=architecture,
        architecture_kwargs=settings,
        preprocessing=preprocessing,
        unsafe_pickle=unsafe_pickle,
    )
    classes = () if dataset is None else dataset.classes
    test = None
    if dataset is not None:
        model = checkpoint.rebuild(adopted)
        with torch.no_grad():
            logits = model(torch.zeros(1, *preprocessing.size))
        if not isinstance(logits, torch.Tensor) or logits.shape != (1, len(classes)):
            came = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise CompressorError(f"the network returns {came} for one image; {data} has {len(classes)} classes")
        test = evaluate(model, replace(dataset, preprocessing=preprocessing), "test").top1
    record = {
        "command": command_line(),
        "data": data,
        "split_seed": seed,
        "adopted": weights.name,
        "test_top1": test,
    }
    checkpoint.save(replace(adopted, classes=classes, record=record), output)
    return Adopted(output, preprocessing, test)


def _preprocessing(
    architecture: str,
    settings: dict[str, Any],
    dataset: Dataset | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Preprocessing:
    size = models.input_size(architecture, **settings) if dataset is None else dataset.preprocessing.size
    known = None if dataset is None else dataset.preprocessing
    if architecture.startswith("torchvision:") and size[0] == len(_TORCHVISION_MEAN):
        known = Preprocessing(_TORCHVISION_MEAN, _TORCHVISION_STD, size)
    if (mean is None or std is None) and known is None:
        raise CompressorError(
            "how images were normalised in training is not known: give --mean and --std, one number per channel on "
            "the 0-1 scale, or --data"
        )
    mean, std = mean or known.mean, std or known.std  # type: ignore[union-attr]  # checked above
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != size[0]:
            raise CompressorError(f"--{name} has {len(values)} numbers; the network takes {size[0]} channels")
    if min(std) <= 0:
        raise CompressorError(f"--std {','.join(map(str, std))}: every number lies above 0")
    return Preprocessing(tuple(mean), tuple(std), size)
