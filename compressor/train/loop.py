"""The training loop: stochastic gradient descent with hooks for a pruning method."""

import functools
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from compressor.data import Dataset, Loader, Loss
from compressor.errors import CheckpointError, CompressorError
from compressor.train.distillation import Teacher
from compressor.train.evaluate import evaluate
from compressor.train.hooks import TrainingMethod
from compressor.train.precision import Precision, channels_last, choose_precision, make_fabric
from compressor.train.progress import Progress
from compressor.train.schedule import lr_factor, parameter_groups
from compressor.train.settings import EpochRecord, TrainRecord, TrainSettings
from compressor.train.state import RunState, load_state, resume_path, save_state
from compressor.train.strided import safe_in_bf16
from compressor.train.trial import check_trains
from compressor.train.views import views_of_any_layout

__all__ = ["steps_per_epoch", "train"]


def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    settings: TrainSettings,
    method: TrainingMethod | None = None,
    checkpoint_path: Path | None = None,
    resume: bool = False,
    before_epoch: Callable[[nn.Module, int], None] | None = None,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
) -> TrainRecord:
    """Trains `model` in place, leaves it with the kept epoch's weights, and returns what happened.

    The test split is not touched. After each epoch the run's state is written beside `checkpoint_path`; a run
    that was killed and resumed goes on exactly where the last epoch ended, bit for bit on the CPU.

    Args:
        model: Gives what the data set's task takes, such as logits (N, classes); a method is already attached.
        dataset: Train split to learn from, val split to choose the epoch by, the loss and the metric.
        settings: Hyper-parameters.
        method: Takes part through its hooks.
        checkpoint_path: Where the trained model will be stored, which is the caller's to do; the state goes
            to the same name with `.resume` behind it. None keeps no state.
        resume: Go on from the state beside `checkpoint_path`.
        before_epoch: Called with the model and the epoch, which counts from 0; sets a density, for example.
        teacher: A network to imitate as well; it is moved to the run's device and put into evaluation mode.
        progress: Where to say how it goes; None is silent.

    Raises:
        CompressorError: torch cannot train the network; the loss is no longer a finite number; or label smoothing is
            asked for and the task's loss is not cross-entropy.
        CheckpointError: `resume`, but there is no state, or it belongs to a run with other settings.
        KeyboardInterrupt: Passed on; the state on disk is that of the last whole epoch.
    """
    if resume and checkpoint_path is None:
        raise ValueError("resume needs checkpoint_path, beside which the state was kept")
    state_file = None if checkpoint_path is None else resume_path(checkpoint_path)
    state = load_state(state_file, settings) if resume and state_file is not None else None
    run = _begin(model, dataset, settings, method, teacher, state, progress or Progress())
    epochs = [] if state is None else list(state.epochs)
    best_model = _copy(model) if state is None else state.best_model
    best_epoch = 0 if state is None else state.best_epoch
    if state_file is not None and state is None and run.fabric.is_global_zero:
        _save(state_file, run, epochs, best_model, best_epoch)

    steps = steps_per_epoch(dataset, settings)
    run.progress.start("training", total=settings.epochs * steps, done=len(epochs) * steps)
    try:
        with torch.random.fork_rng(devices=[run.fabric.device] if run.fabric.device.type == "cuda" else []):
            for epoch in range(len(epochs), settings.epochs):
                if before_epoch is not None:
                    before_epoch(model, epoch)
                epochs.append(_one_epoch(run, epoch, steps))
                if _is_best(epochs, best_epoch, settings):
                    best_model, best_epoch = _copy(model), epoch + 1
                if state_file is not None and run.fabric.is_global_zero:
                    _save(state_file, run, epochs, best_model, best_epoch)
    except Exception:
        if state_file is not None and not epochs and run.fabric.is_global_zero:
            state_file.unlink(missing_ok=True)  # a run that failed at once would fail at once again
        raise
    finally:
        run.progress.stop()

    kept_epoch = best_epoch if settings.keep == "best" else len(epochs)
    if settings.keep == "best":
        model.load_state_dict(best_model)
    model.to(memory_format=torch.contiguous_format)
    return TrainRecord(
        settings=settings,
        precision=f"{run.precision.name} ({run.precision.reason})",
        epochs=tuple(epochs),
        kept_epoch=kept_epoch,
        val_top1=epochs[kept_epoch - 1].val_top1 if kept_epoch else 0.0,
    )


@dataclass(frozen=True)
class _Run:
    """What stays the same over the epochs of one run."""

    model: nn.Module  # the caller's
    loss: Loss
    wrapped: nn.Module  # the same network inside Fabric's wrapper: precision, gradients averaged over ranks
    optimizer: Any  # torch.optim.SGD inside Fabric's wrapper
    fabric: Fabric
    precision: Precision
    dataset: Dataset
    settings: TrainSettings
    method: TrainingMethod | None
    teacher: Teacher | None
    progress: Progress


def _begin(
    model: nn.Module,
    dataset: Dataset,
    settings: TrainSettings,
    method: TrainingMethod | None,
    teacher: Teacher | None,
    state: RunState | None,
    progress: Progress,
) -> _Run:
    """Changes `model` to where the run stands, moves it to its device, and returns all that the run needs."""
    loss = _loss(dataset, settings.label_smoothing)
    if state is None:
        if settings.epochs:
            check_trains(model, dataset, loss, bf16=settings.precision == "bf16")
        batches = dataset.batches("train", Loader(settings.batch_size, shuffle=True))
        precision = choose_precision(model, batches, loss=loss, wanted=settings.precision)
    else:
        precision = Precision(state.precision, channels_last=True, reason=state.precision_reason)
    fabric = make_fabric(precision)
    if state is not None:
        _load_weights(model, state)
    model.to(memory_format=torch.channels_last)
    groups = method.parameters(model) if method is not None else None
    optimizer = torch.optim.SGD(
        groups or parameter_groups(model, settings),
        lr=settings.peak_lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov and settings.momentum > 0,
    )
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    if state is not None:
        # After the set-up, so that the momentum goes where the weights have gone.
        optimizer.load_state_dict(state.optimizer)
    progress = progress if fabric.is_global_zero else Progress()
    progress.line(f"precision: {precision.name} ({precision.reason})")
    if teacher is not None:
        teacher.model.eval().to(fabric.device).to(memory_format=torch.channels_last)
    return _Run(
        model, loss, wrapped, wrapped_optimizer, fabric, precision, dataset, settings, method, teacher, progress
    )


def steps_per_epoch(dataset: Dataset, settings: TrainSettings) -> int:
    """Returns the batches of one epoch of a run, at least 1 unless the train split is empty."""
    steps = dataset.num_batches("train", Loader(settings.batch_size, shuffle=True))
    return min(steps, max(1, settings.epoch_images // settings.batch_size)) if settings.epoch_images else steps


def _loss(dataset: Dataset, smoothing: float) -> Loss:
    """The task's loss, with label smoothing where it is asked for."""
    if not smoothing:
        return dataset.task.loss
    if dataset.task.loss is not F.cross_entropy:
        raise CompressorError(f"label_smoothing is {smoothing:g}, but the loss is the caller's own; set it to 0")
    return functools.partial(F.cross_entropy, label_smoothing=smoothing)


def _load_weights(model: nn.Module, state: RunState) -> None:
    """Changes `model`: its weights are those of the run so far."""
    try:
        model.load_state_dict(state.model)
    except RuntimeError as error:
        raise CheckpointError("the run to resume trains another network; start without resuming") from error


def _one_epoch(run: _Run, epoch: int, steps: int) -> EpochRecord:
    """Trains one epoch (counts from 0), evaluates on the val split, and says so."""
    start = time.perf_counter()
    settings, fabric = run.settings, run.fabric
    loader = Loader(
        settings.batch_size,
        shuffle=True,
        augment=True,
        seed=settings.seed,
        epoch=epoch,
        rank=fabric.global_rank,
        num_ranks=fabric.world_size,
        device=fabric.device,
        num_workers=settings.num_workers,
    )
    # What is random inside the network (dropout) depends on seed, epoch and rank: a run can be resumed.
    torch.manual_seed(((settings.seed * 1_000_003) + epoch) * 1_009 + fabric.global_rank)
    run.model.train()
    loss_sum = torch.zeros((), device=fabric.device)
    lr = 0.0
    batches = itertools.islice(run.dataset.batches("train", loader), steps)
    for step, (images, labels) in enumerate(batches, start=epoch * steps):
        factor = lr_factor(
            step,
            total_steps=settings.epochs * steps,
            warmup_fraction=settings.warmup_fraction,
            schedule=settings.schedule,
            lowest=settings.lowest_lr / settings.peak_lr if settings.peak_lr else 0.0,
        )
        for group in run.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        lr = settings.peak_lr * factor
        loss_sum += _one_step(run, images, labels)
        run.progress.advance()
    train_loss = torch.as_tensor(fabric.all_reduce(loss_sum, reduce_op="mean")).item() / steps
    if not math.isfinite(train_loss):
        raise CompressorError(
            f"training diverged in epoch {epoch + 1}: the loss is {train_loss}; "
            f"lower peak_lr (it is {settings.peak_lr}) or set clip_norm (it is {settings.clip_norm})"
        )
    _average_statistics(run)
    with fabric.autocast():
        val = evaluate(run.model, run.dataset, "val", fabric=fabric, num_workers=settings.num_workers)
    seconds = time.perf_counter() - start
    run.progress.line(
        f"epoch {epoch + 1}/{settings.epochs}  train loss {train_loss:.4f}  val loss {val.loss:.4f}  "
        f"val {run.dataset.task.name} {val.top1:.2%}  {seconds:.1f} s"
    )
    return EpochRecord(epoch + 1, train_loss, val.loss, val.top1, lr, seconds)


def _one_step(run: _Run, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Makes one update and returns the loss that was minimised, a scalar without gradient."""
    inputs = channels_last(images)
    with safe_in_bf16(bf16=run.precision.name == "bf16"), views_of_any_layout():
        outputs = run.wrapped(inputs)
    loss = run.loss(outputs, labels)
    if run.teacher is not None:
        with run.fabric.autocast(), views_of_any_layout():
            loss = run.teacher.mix(loss, outputs, inputs)
    penalty = run.method.penalty(run.model) if run.method is not None else None
    if penalty is not None:
        loss = loss + penalty
    run.optimizer.zero_grad()
    run.fabric.backward(loss)
    if run.method is not None:
        run.method.after_backward(run.model)
    if run.settings.clip_norm is not None:
        # A gradient that is not finite shows in the loss, which is checked each epoch.
        run.fabric.clip_gradients(run.wrapped, run.optimizer, max_norm=run.settings.clip_norm, error_if_nonfinite=False)
    run.optimizer.step()
    if run.method is not None:
        run.method.after_step(run.model)
    return loss.detach()


def _average_statistics(run: _Run) -> None:
    """Gives every rank the same batch-norm statistics: the mean over the ranks."""
    if run.fabric.world_size > 1:
        for buffer in run.model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.as_tensor(run.fabric.all_reduce(buffer, reduce_op="mean")))


def _is_best(epochs: list[EpochRecord], best_epoch: int, settings: TrainSettings) -> bool:
    if len(epochs) <= min(settings.settle_epochs, settings.epochs - 1):
        return False
    return best_epoch == 0 or epochs[-1].val_top1 > epochs[best_epoch - 1].val_top1


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def _save(
    path: Path, run: _Run, epochs: list[EpochRecord], best_model: dict[str, torch.Tensor], best_epoch: int
) -> None:
    state = RunState(
        precision=run.precision.name,
        precision_reason=run.precision.reason,
        model=run.model.state_dict(),
        optimizer=run.optimizer.state_dict(),
        epochs=tuple(epochs),
        best_model=best_model,
        best_epoch=best_epoch,
    )
    save_state(path, state, run.settings)
