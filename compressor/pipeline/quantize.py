"""The road of `compress quantize`: a trained network in, one whose weights are in fixed point out.

    direct quantisation -> sensitivity of single layers -> word lengths -> training with master weights

It comes after every other method: cutting or training a network further takes its weights off their levels. Decisions
are made on the validation split; the test split is looked at once, at the end. (The order is a reconstruction of arXiv
1512.08571's.)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compressor import checkpoint
from compressor.data import CLASSIFICATION, Dataset
from compressor.errors import CheckpointError, CompressorError
from compressor.methods.fbs import FBS, layers
from compressor.pipeline.prune import matching_data
from compressor.pipeline.quantized import QuantizedNetwork, write_quantized
from compressor.pipeline.train import check_output, command_line, split_seed_of
from compressor.pipeline.word_lengths import Subject, file_bytes, for_accuracy, for_size, sensitivities
from compressor.quantise import (
    FixedPoint,
    Scheme,
    Sensitivity,
    apply,
    check_bits,
    describe,
    keep_masters,
    layer_storage,
    packed_bytes,
    release_masters,
)
from compressor.train import Progress, TrainRecord, TrainSettings, evaluate, resume_path, train

__all__ = ["RETRAINING", "BitWishes", "QuantizedNetwork", "quantize"]

# A tenth of dense training's peak rate, as after every other step of the method; gradient clipped as in fine-tuning.
RETRAINING = TrainSettings(epochs=0, peak_lr=0.02, clip_norm=5.0)


@dataclass(frozen=True)
class BitWishes:
    """What the user asks of the words; one of the first three is given.

    Attributes:
        bits: The same for all weights, 2 to 8.
        max_drop: Largest loss of validation accuracy, 0 to 1, before any retraining; the fewest bits that keep it.
        max_bytes: Most bytes of the file's numbers; the words of 8 and 4 bits that cost least accuracy.
        scheme: One step per layer or channel, free or 2^-n.
        sweep: Measure the sensitivity of every layer at `bits` too.
    """

    bits: int | None = None
    max_drop: float | None = None
    max_bytes: int | None = None
    scheme: Scheme = field(default_factory=Scheme)
    sweep: bool = False


def quantize(
    source: str | Path | checkpoint.CompressedCheckpoint,
    *,
    wishes: BitWishes,
    output: Path,
    data: str | Dataset | None = None,
    resume: bool = False,
    seed: int = 0,
    settings: TrainSettings | None = None,
    progress: Progress | None = None,
) -> QuantizedNetwork:
    """Puts a trained network's weights into fixed point and writes its checkpoint.

    Kernels and linear weights get the asked or chosen bits, FBS's predictors 8; biases and batch norms stay float32.

    Args:
        source: A checkpoint or its path: dense, slim, or with FBS attached.
        wishes: Bits or a limit.
        output: The checkpoint to write; the state of an unfinished retraining lies beside it.
        data: A data set, or what `compressor.data.load` takes; without it bits cannot be chosen nor accuracy be known.
        resume: Go on with an unfinished retraining.
        seed: Order of images, augmentation, dropout.
        settings: Of the retraining; 0 epochs leave the weights as quantisation makes them. None takes `RETRAINING`.
        progress: Where to say how it goes.

    Raises:
        CompressorError: Wishes or arguments do not go together, the checkpoint is in fixed point already or not usable,
            or a limit cannot be met. Nothing is written then.
    """
    progress = progress or Progress()
    settings = replace(settings or RETRAINING, seed=seed)
    _check(wishes, data, settings, resume)
    if isinstance(source, checkpoint.CompressedCheckpoint):
        name, saved = source.architecture or "the network", source
        check_output(output)
    else:
        name = str(source)
        check_output(output, source=source)
        saved = checkpoint.load(Path(source))
    if saved.fixed_point is not None:
        raise CheckpointError(f"{name} is in fixed point already; give the float network that it was made from")
    model = checkpoint.rebuild(saved)
    dataset = None if data is None else matching_data(data, saved, seed)
    subject = Subject.of(model, wishes.scheme)
    if not subject.kernels:
        raise CompressorError(f"{name} has no convolution and no linear layer; there is nothing to quantise")
    before = None if dataset is None else evaluate(model, dataset, "val").top1
    if dataset is not None:
        progress.line(f"float: val {dataset.task.name} {before:.2%}")
    bits, table = _word_lengths(subject, wishes, dataset, before, progress)
    fixed = subject.fixed(subject.with_predictors(bits))

    direct = trained = None
    if dataset is None:
        apply(model, fixed)
    else:
        keep_masters(model, fixed)
        direct = evaluate(model, dataset, "val").top1
        progress.line(f"fixed point: val {dataset.task.name} {direct:.2%}")
        if settings.epochs:
            settings = replace(settings, task=_task(saved, dataset, fixed))
            trained = train(
                model,
                dataset,
                settings=settings,
                method=_Retraining(saved, subject.predictors),
                checkpoint_path=output,
                resume=resume,
                progress=progress,
            )
        fixed = release_masters(model, list(fixed))
    stored = tuple(layer_storage(name, values) for name, values in fixed.items())
    numbers = sum(value.numel() for value in model.state_dict().values() if value.is_floating_point())
    result = QuantizedNetwork(
        path=output,
        layers=stored,
        packed_bytes=packed_bytes(stored, numbers - sum(layer.weights for layer in stored)),
        file_bytes=file_bytes(subject, bits),
        float_bytes=4 * numbers,
        sensitivity=table,
        val_before=before,
        val_direct=direct,
        val_top1=direct if trained is None else trained.val_top1,
        test_top1=None if dataset is None else evaluate(model, dataset, "test").top1,
        metric=CLASSIFICATION.name if dataset is None else dataset.task.name,
    )
    write_quantized(result, model, saved, fixed, _record(saved, seed, wishes, dataset, trained))
    resume_path(output).unlink(missing_ok=True)
    return result


def _check(wishes: BitWishes, data: str | Dataset | None, settings: TrainSettings, resume: bool) -> None:
    """Everything that can be said before any work is done."""
    given = [value for value in (wishes.bits, wishes.max_drop, wishes.max_bytes) if value is not None]
    if len(given) != 1:
        raise CompressorError("give one of --bits (2 to 8), --max-drop and --max-bytes")
    if wishes.bits is not None:
        try:
            check_bits(wishes.bits)
        except ValueError as error:
            raise CompressorError(str(error)) from error
    if wishes.max_drop is not None and not 0.0 <= wishes.max_drop < 1.0:
        raise CompressorError(f"a drop of {100 * wishes.max_drop:g} points; allowed are 0 to below 100")
    if wishes.max_bytes is not None and wishes.max_bytes < 1:
        raise CompressorError(f"{wishes.max_bytes} bytes; give at least 1")
    if data is None and (wishes.bits is None or wishes.sweep):
        raise CompressorError(
            "choosing bits measures accuracy, so it needs data: add --data, for example --data digits"
        )
    if data is None and settings.epochs:
        raise CompressorError("retraining needs data: add --data, for example --data digits")
    if resume and not settings.epochs:
        raise CompressorError("there is no retraining to resume: add --epochs, or leave --resume out")


def _word_lengths(
    subject: Subject, wishes: BitWishes, dataset: Dataset | None, before: float | None, progress: Progress
) -> tuple[Mapping[str, int], tuple[Sensitivity, ...]]:
    if dataset is not None and before is not None:
        if wishes.max_drop is not None:
            return for_accuracy(subject, before - wishes.max_drop, dataset, progress)
        if wishes.max_bytes is not None:
            return for_size(subject, wishes.max_bytes, dataset, progress)
    assert wishes.bits is not None
    table: tuple[Sensitivity, ...] = ()
    if wishes.sweep and dataset is not None:
        table = sensitivities(subject, [wishes.bits], dataset, progress)
    return dict.fromkeys(subject.kernels, wishes.bits), table


class _Retraining:
    """What the training loop asks of a method: that of the network's own, and no decay on predictors."""

    def __init__(self, saved: checkpoint.CompressedCheckpoint, predictors: tuple[str, ...]) -> None:
        self.fbs = FBS(**(saved.method_settings or {})) if saved.method == "fbs" else None
        self.predictors = predictors

    def parameters(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """As `FBS.parameters`, which does not know predictors by their master weights."""
        if self.fbs is None:
            return None
        owners = {f"{name.rpartition('.')[0]}.parametrizations.saliency_weight.original" for name in self.predictors}
        free = [p for name, p in model.named_parameters() if p.ndim < 2 or name in owners]
        decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and name not in owners]
        return [{"params": decayed}, {"params": free, "weight_decay": 0.0}]

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The saliencies' norm; nothing for other networks."""
        return None if self.fbs is None or not layers(model) else self.fbs.penalty(model)

    def after_backward(self, model: nn.Module) -> None:
        """Nothing: a pruned weight's gradient is 0 already."""

    def after_step(self, model: nn.Module) -> None:
        """Nothing: weights are put on their levels where they are used."""


def _task(saved: checkpoint.CompressedCheckpoint, dataset: Dataset, fixed: Mapping[str, FixedPoint]) -> str:
    """What else decides a retraining: a run is resumed only with the same."""
    return json.dumps({"data": dataset.name, "architecture": saved.architecture, "fixed_point": describe(fixed)})


def _record(
    saved: checkpoint.CompressedCheckpoint,
    seed: int,
    wishes: BitWishes,
    dataset: Dataset | None,
    trained: TrainRecord | None,
) -> dict[str, Any]:  # JSON values
    return {
        "command": command_line(),
        "seed": seed,
        "split_seed": split_seed_of(saved, seed),
        "data": None if dataset is None else dataset.name,
        "metric": CLASSIFICATION.name if dataset is None else dataset.task.name,
        "per_channel": wishes.scheme.per_channel,
        "pow2": wishes.scheme.pow2,
        "train": None if trained is None else trained.to_json(),
    }
