"""The road of `compress train`: data and architecture in, a dense checkpoint out."""

import copy
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

import models
from compressor import checkpoint
from compressor.data import UNLABELLED, Dataset, load
from compressor.errors import CompressorError, DataError
from compressor.folders import refusal
from compressor.train import Progress, TrainRecord, TrainSettings, evaluate, resume_path, train

__all__ = ["TrainedNetwork", "check_output", "command_line", "split_seed_of", "train_dense"]


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained checkpoint and how good it is.

    Attributes:
        path: The checkpoint.
        record: What happened in training; the kept epoch was chosen on the validation split.
        test_top1: Part of the test images that is right, 0 to 1; evaluated once, at the end.
    """

    path: Path
    record: TrainRecord
    test_top1: float

    def summary(self) -> str:
        """One line for people."""
        epochs = len(self.record.epochs)
        return (
            f"{self.path}: epoch {self.record.kept_epoch} of {epochs}, "
            f"val accuracy {self.record.val_top1:.2%}, test accuracy {self.test_top1:.2%}"
        )


def train_dense(
    architecture: str,
    data: str,
    *,
    output: Path,
    settings: TrainSettings,
    architecture_settings: Mapping[str, object] | None = None,
    start: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainedNetwork:
    """Trains a network and writes its checkpoint.

    Args:
        architecture: What `models.build` takes.
        data: What `compressor.data.load` takes.
        output: The checkpoint; the state of an unfinished run lies beside it.
        settings: Hyper-parameters; the seed also draws the start weights and the validation split.
        architecture_settings: Arguments of the network's factory besides `num_classes` and `in_channels`.
        start: A dense checkpoint of the same architecture to take the start weights from, instead of random ones.
        resume: Go on with the unfinished run.
        progress: Where to say how it goes.

    Raises:
        CompressorError: A data set, checkpoint or argument is not usable; or training diverged.
    """
    check_output(output)
    # Weights that were trained on a split are trained on: the images held out from them must stay held out.
    split_seed = settings.seed if start is None else split_seed_of(checkpoint.load(start), settings.seed)
    dataset = load(data, seed=split_seed)
    if dataset.task is UNLABELLED:
        raise DataError(f"{data} has no labels to learn from: give labelled data, or prune a trained network with it")
    kwargs = {**architecture_kwargs(architecture, dataset), **(architecture_settings or {})}
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = models.build(architecture, **kwargs)
    before = None if start is None else _load_start(model, start)
    _check_forward(model, architecture, dataset)
    task = {
        "architecture": architecture,
        **kwargs,
        "data": dataset.name,
        "start": None if start is None else str(start),
    }
    settings = replace(settings, task=json.dumps(task))
    record = train(model, dataset, settings=settings, checkpoint_path=output, resume=resume, progress=progress)
    test = evaluate(model, dataset, "test")
    checkpoint.save(
        checkpoint.CompressedCheckpoint(
            architecture=architecture,
            architecture_kwargs=kwargs,
            preprocessing=dataset.preprocessing,
            classes=dataset.classes,
            state=model.state_dict(),
            record={
                "command": command_line(),
                "data": dataset.name,
                "split_seed": split_seed,
                "train": record.to_json(),
                "val_top1": record.val_top1,
                "test_top1": test.top1,
                "start": before,
            },
        ),
        output,
    )
    resume_path(output).unlink(missing_ok=True)
    return TrainedNetwork(output, record, test.top1)


def _check_forward(model: nn.Module, architecture: str, dataset: Dataset) -> None:
    """Raises CompressorError where the network does not turn images into logits; leaves it as it is."""
    images = torch.zeros(2, *dataset.preprocessing.size)
    wanted = (2, len(dataset.classes))
    with torch.random.fork_rng(), torch.no_grad():
        try:
            logits = copy.deepcopy(model).train()(images)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise CompressorError(f"'{architecture}' fails on images of shape {tuple(images.shape)}: {what}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != wanted:
        came = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise CompressorError(
            f"'{architecture}' returns {came} for images of shape {tuple(images.shape)}; "
            f"training needs one tensor of logits, {wanted}: return only that"
        )


def _load_start(model: nn.Module, start: Path) -> dict[str, object]:
    """Changes `model`: its weights are those of a checkpoint. Returns that checkpoint's record."""
    saved = checkpoint.load(start)
    if saved.method is not None or saved.plan is not None:
        raise CompressorError(f"{start} is not a dense network; --start takes what 'compress train' wrote")
    try:
        model.load_state_dict(saved.state)
    except RuntimeError as error:
        raise CompressorError(f"the weights of {start} ({saved.architecture}) do not fit: {error}") from error
    return saved.record


def architecture_kwargs(architecture: str, dataset: Dataset) -> dict[str, int]:
    """Returns what the network's factory is told about the data.

    Raises:
        DataError: The network takes images of another number of channels.
    """
    channels = dataset.preprocessing.size[0]
    kwargs = {"num_classes": len(dataset.classes)}
    if architecture in models.names():
        return {**kwargs, "in_channels": channels}
    try:
        wanted = models.input_size(architecture, **kwargs)[0]
    except models.ModelError:
        if architecture.startswith("torchvision:"):
            raise
        # A network of one's own need not say its size: the data has one, and building it tells what else is wrong.
        return kwargs
    if wanted != channels:
        raise DataError(f"'{architecture}' takes {wanted}-channel images; {dataset.name} has {channels} channels")
    return kwargs


def check_output(path: Path, *, source: str | Path | checkpoint.CompressedCheckpoint | None = None) -> None:
    """Raises CompressorError, before any work is done, where `path` cannot become a file or is `source` itself."""
    if isinstance(source, checkpoint.CompressedCheckpoint):
        source = None
    if path.is_dir():
        raise CompressorError(f"{path} is a folder; name the file to write with -o")
    if not path.parent.is_dir():
        raise CompressorError(f"no folder {path.parent} to write {path.name} in; make it first")
    if (reason := refusal(path.parent)) is not None:
        raise CompressorError(f"{path.name} cannot be written in {path.parent}: {reason}; name another file with -o")
    if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
        raise CompressorError(f"{path} is the network to read and would be lost; name another file with -o")


def split_seed_of(saved: checkpoint.CompressedCheckpoint, default: int) -> int:
    """Returns the seed of the validation split that a checkpoint's weights never saw.

    Args:
        saved: Of any command.
        default: Where its record does not say, as of a network trained elsewhere.
    """
    seed = saved.record.get("split_seed", default)
    if not isinstance(seed, int):
        raise CompressorError(f"the checkpoint's record has split_seed {seed!r}; a whole number was expected")
    return seed


def command_line() -> str:
    """The command that is running, as one would type it again."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
