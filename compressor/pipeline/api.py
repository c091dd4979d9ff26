"""The road for one's own network, data, loss and metric, from Python; `import compressor` offers what is here.

    result = compressor.compress(model, example, method="l1", budget="macs=0.5x", train=loader, val=loader)
    result.model                         the compressed network
    compressor.export(result, "slim.onnx")
    compressor.benchmark(["dense.onnx", "slim.onnx"], threads=(1, 4))

The work is that of `compress prune`: the same functions on a checkpoint that is held in memory.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

import exporters
import runtime.bench
from compressor import checkpoint, methods, recipes
from compressor.data import Batch, Dataset, Loss, Metric, Task, accuracy, from_loaders
from compressor.errors import CompressorError
from compressor.methods.fbs import FBS
from compressor.pipeline.export import export_network
from compressor.pipeline.prune import FINE_TUNING, prune
from compressor.pipeline.slim import Wishes, slim
from compressor.pipeline.steps import alignment
from compressor.pipeline.teacher import Distillation
from compressor.pipeline.train import check_output
from compressor.select import Limits, parse_budget
from compressor.train import Progress, TrainSettings, progress_on
from runtime.results import BenchmarkResult

__all__ = ["Compressed", "benchmark", "compress", "export", "load"]


@dataclass(frozen=True)
class Compressed:
    """A compressed network.

    Attributes:
        model: In evaluation mode; a plain network, or one with FBS layers.
        checkpoint: The same as plain values: plan, method, record.
        report: Metric and cost before and after, the plan, the speed that was measured: JSON values. The metric is
            the caller's, on `val` in `val_before` and `val`, on `test` in `test` (None where none was given).
    """

    model: nn.Module
    checkpoint: checkpoint.CompressedCheckpoint
    report: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Writes the checkpoint, whole or not at all; `load` opens it.

        Raises:
            CompressorError: The folder is absent, or `path` is one.
            OSError: It may not be written to.
        """
        check_output(Path(path))
        checkpoint.save(self.checkpoint, Path(path))


def compress(
    model: nn.Module,
    example: Tensor,
    *,
    method: str,
    budget: str | None = None,
    density: float | None = None,
    train: Iterable[Batch],
    val: Iterable[Batch],
    test: Iterable[Batch] | None = None,
    loss: Loss = F.cross_entropy,
    metric: Callable[[Any, Any], Any] | Metric = accuracy,
    epochs: int | None = None,
    recipe: str | None = None,
    settings: TrainSettings | None = None,
    method_settings: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    align: str = "auto",
    distill: bool | nn.Module = False,
    workdir: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    verbose: bool = True,
) -> Compressed:
    """Compresses a trained network with the caller's data, loss and metric.

    Args:
        model: The trained network; it is not changed.
        example: (N, C, H, W), an input it takes.
        method: A name of `compress list methods`.
        budget: For methods that remove channels: `macs=0.5x`, `params=0.4x`, `density=0.5`, `macs=60M`, `latency=0.5x`.
        density: For fbs: part of each layer's channels that is computed, in (0, 1].
        train: Batches (inputs, targets) to learn from; can be walked more than once, like a `DataLoader`.
        val: Batches that every decision is made on; no part of `train`.
        test: Batches for the report only.
        loss: (outputs, targets) -> scalar, the mean over the batch.
        metric: (outputs, targets) -> one value per sample or their mean, larger is better; or an object with
            `reset`, `update` and `compute`, such as torchmetrics' classes.
        epochs: Of the schedule, or of the fine-tuning; None takes the method's.
        recipe: A shipped recipe's name or a .toml file: the method's and the training's numbers; None takes the
            method's own recipe where it has one.
        settings: Learning rate and so on of the training instead of the recipe's; epochs and seed are this
            function's, batches the loader's.
        method_settings: Fields of the method, instead of the recipe's.
        limits: Layers to leave alone, least widths, whether branches may go.
        align: Widths: `auto` (this machine), `off`, a number, or a target's name.
        distill: Imitate the network as it was (True) or another one that gives logits of the same shape.
        workdir: Where a run's state is kept, so that `resume` can go on with it; None keeps none.
        resume: Go on with the unfinished run in `workdir`.
        seed: Of everything random here; the order of batches is the loader's.
        verbose: Say how it goes on standard error.

    Raises:
        CompressorError: Something is missing or does not fit, or the budget cannot be met.
    """
    if not isinstance(model, nn.Module) or not isinstance(example, Tensor):
        raise CompressorError(
            f"compress takes a torch.nn.Module and an example tensor; a {type(model).__name__} and a "
            f"{type(example).__name__} came"
        )
    data = from_loaders(train, val, test, example=example, task=Task(loss, metric))
    source = checkpoint.CompressedCheckpoint(
        architecture="",
        architecture_kwargs={},
        preprocessing=data.preprocessing,
        classes=(),
        state={name: value.detach().cpu() for name, value in model.state_dict().items()},
        base=copy.deepcopy(model).cpu(),
    )
    teacher = source.base if distill is True else distill
    chosen = recipes.chosen(method, recipe, method_settings or {})
    if chosen is not None and settings is None:
        settings = chosen.train_settings()
        epochs = settings.epochs if epochs is None and "epochs" in chosen.training else epochs
    job = _Job(
        method=method,
        budget=budget,
        density=density,
        epochs=epochs,
        settings=settings or FINE_TUNING,
        method_settings=dict((method_settings or {}) if chosen is None else chosen.settings),
        limits=limits or Limits(),
        align=align,
        distillation=Distillation(copy.deepcopy(teacher)) if isinstance(teacher, nn.Module) else None,
        resume=resume,
        seed=seed,
        progress=progress_on() if verbose else Progress(),
    )
    if workdir is not None:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        return _run(job, source, data, Path(workdir), tested=test is not None)
    if resume:
        raise CompressorError("resume needs workdir, where the state of the unfinished run was kept")
    with TemporaryDirectory(prefix="compress.") as folder:
        return _run(job, source, data, Path(folder), tested=test is not None)


@dataclass(frozen=True)
class _Job:
    """What is asked for."""

    method: str
    budget: str | None
    density: float | None
    epochs: int | None
    settings: TrainSettings
    method_settings: dict[str, Any]
    limits: Limits
    align: str
    distillation: Distillation | None
    resume: bool
    seed: int
    progress: Progress


def _run(
    job: _Job, source: checkpoint.CompressedCheckpoint, data: Dataset, folder: Path, *, tested: bool
) -> Compressed:
    output = folder / "compressed.pt"
    if issubclass(methods.get(job.method), FBS):
        if job.budget is not None:
            raise CompressorError(f"{job.method} keeps all channels and chooses per image: give density, not a budget")
        prune(
            source,
            method=job.method,
            data=data,
            density=job.density,
            output=output,
            epochs=job.epochs,
            resume=job.resume,
            seed=job.seed,
            settings=job.settings,
            method_settings=job.method_settings,
            distillation=job.distillation,
            progress=job.progress,
        )
    else:
        # Without a budget, structured may be asked for kernels or strides alone.
        if job.density is not None or (job.budget is None and job.method != "structured"):
            raise CompressorError(f"{job.method} removes channels for good: give a budget, such as macs=0.5x")
        align = alignment(job.align)
        try:
            wanted = None if job.budget is None else parse_budget(job.budget)
        except ValueError as error:
            raise CompressorError(str(error)) from error
        slim(
            source,
            method=job.method,
            data=data,
            wishes=Wishes(wanted, job.limits, align),
            output=output,
            epochs=job.epochs,
            resume=job.resume,
            seed=job.seed,
            settings=job.settings,
            method_settings=job.method_settings,
            distillation=job.distillation,
            progress=job.progress,
        )
    saved = replace(checkpoint.load(output), base=source.base)
    return Compressed(checkpoint.rebuild(saved), saved, _report(saved, tested=tested))


def _report(saved: checkpoint.CompressedCheckpoint, *, tested: bool) -> dict[str, Any]:  # JSON values
    record = saved.record
    return {
        "method": record.get("method", saved.method),
        "density": saved.density,
        "val_before": record["before"]["val_top1"],
        "val": record["val_top1"],
        "test": record["test_top1"] if tested else None,
        "macs_before": record["before"]["macs"],
        "macs": record["macs"],
        "parameters": record["parameters"],
        "speedup": record.get("speedup"),
        "plan": None if saved.plan is None else saved.plan["steps"],
        "training": record.get("train"),
    }


def load(path: str | Path, model: nn.Module | None = None) -> Compressed:
    """Returns what `Compressed.save` or the command line wrote.

    Args:
        path: The checkpoint.
        model: The network before compression, with any weights; needed where the checkpoint was made from Python.

    Raises:
        CheckpointError: The file is not usable, or does not fit `model`.
    """
    saved = checkpoint.load(Path(path))
    if model is not None:
        saved = replace(saved, base=copy.deepcopy(model).cpu())
    return Compressed(checkpoint.rebuild(saved), saved, dict(saved.record))


def export(
    network: Compressed | str | Path,
    output: str | Path,
    *,
    target: str = "onnx",
    batch: int | Literal["dynamic"] = 1,
    opset: int | None = None,
) -> exporters.ExportedModel:
    """Writes an ONNX file after it has been compared with torch.

    Args:
        network: What `compress` returned, or a checkpoint's path.
        output: The file to write; whole or not at all.
        target: A name of `compress list targets`.
        batch: Samples per run, or `dynamic`.
        opset: Of the standard ops; None takes the target's.

    Raises:
        CompressorError: The checkpoint is not usable.
        ExportError: The network cannot be exported, or the file's numbers differ from torch's.
    """
    source = network.checkpoint if isinstance(network, Compressed) else str(network)
    return export_network(source, output=Path(output), target=target, batch=batch, opset=opset).file


def benchmark(paths: Sequence[str | Path], *, threads: Sequence[int] = (1,), **options: Any) -> list[BenchmarkResult]:
    """Measures ONNX files against each other, see `runtime.bench.benchmark`, whose options it takes."""
    return runtime.bench.benchmark([Path(path) for path in paths], threads=tuple(threads), **options)
