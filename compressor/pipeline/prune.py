"""The road of `compress prune`: a dense checkpoint in, a pruned checkpoint and its accuracy/MACs curve out.

FBS is attached at density 1 and trained in two stages that share one learning-rate curve: a line up while the
density falls step by step, half a cosine down at the final density. The epoch is chosen on the validation
split among those at the final density; the test split is looked at once, at the end.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compressor import checkpoint, methods
from compressor.costs.macs import ModelCost, count_macs
from compressor.data import Dataset, Loader, load
from compressor.errors import CheckpointError, CompressorError, DataError, MethodError
from compressor.methods.fbs import FBS, at_density, set_density
from compressor.pipeline.density import DensityRun, lowering_path, train_stage
from compressor.pipeline.pruned import CurvePoint, PrunedNetwork, make_curve, write_pruned
from compressor.pipeline.train import check_output
from compressor.train import Progress, TrainSettings, evaluate, resume_path

__all__ = ["FINE_TUNING", "CurvePoint", "PrunedNetwork", "load_for_pruning", "matching_data", "prune"]

# Images on which the live channels of residual sums are measured; a chain needs none.
_COUNTED_IMAGES = 64
# One quarter of dense training's peak rate, gradient clipped at norm 5: tried on M-CifarNet, CIFAR-10.
FINE_TUNING = TrainSettings(peak_lr=0.05, clip_norm=5.0)


def prune(
    source: str | Path,
    *,
    method: str = "fbs",
    data: str | None,
    density: float | None,
    output: Path,
    epochs: int | None = None,
    resume: bool = False,
    seed: int = 0,
    settings: TrainSettings | None = None,
    method_settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> PrunedNetwork:
    """Prunes a trained network and writes its checkpoint.

    Args:
        source: a dense checkpoint's path.
        method: `fbs`.
        data: what `compressor.data.load` takes; the validation split is the one the dense network never saw.
        density: fraction of each layer's channels that is computed, in (0, 1].
        output: the checkpoint to write; the state of an unfinished run lies beside it.
        epochs: of the whole schedule; None takes the method's.
        resume: go on with an unfinished run, with the same settings.
        seed: order of images, augmentation, dropout, predictors' start weights.
        settings: batch size, peak learning rate and so on; its epochs, warm-up and seed are this function's.
        method_settings: fields of the method besides density and seed.
        progress: where to say how it goes.

    Raises:
        CompressorError: something is missing, or a file, data set or setting is not usable; or training
            diverged.
    """
    fbs = _method(method, density, seed, method_settings or {})
    if data is None:
        raise CompressorError("pruning trains the network, so it needs data: add --data, for example --data digits")
    densities = _schedule(fbs, epochs)
    progress = progress or Progress()
    check_output(output)
    dense = load_for_pruning(Path(source))
    dataset = matching_data(data, dense, seed)
    dense_model = checkpoint.rebuild(dense)
    images = _images(dataset)
    model = fbs.attach(dense_model, images)
    run = DensityRun(fbs, dataset, output, resume, replace(settings or FINE_TUNING, seed=seed), progress)

    dense_val = evaluate(dense_model, dataset, "val").top1
    dense_macs = count_macs(dense_model, images).macs
    progress.line(f"dense: val accuracy {dense_val:.2%}, {dense_macs / 1e6:.2f} M MACs")
    way = [value for value in densities if value > fbs.density]
    final = densities[len(way) :]
    lowering = train_stage(run, model, way, lowering_path(output), warmup=1.0) if way else None
    costs = _costs(model, images, way)
    # Without a stage before it, the final one has its own warm-up.
    finishing = train_stage(run, model, final, output, warmup=0.0 if way else run.settings.warmup_fraction)
    costs |= _costs(model, images, final)

    epochs_done = [*(lowering.epochs if lowering is not None else ()), *finishing.epochs]
    curve = make_curve(epochs_done, densities, costs, dense_macs)
    set_density(model, fbs.density)
    test = evaluate(model, dataset, "test").top1
    result = PrunedNetwork(
        path=output,
        density=fbs.density,
        curve=curve,
        kept_epoch=len(way) + finishing.kept_epoch,
        val_top1=finishing.val_top1,
        test_top1=test,
        cost=costs[fbs.density],
        dense_val_top1=dense_val,
        dense_test_top1=dense.record.get("test_top1"),
        dense_macs=dense_macs,
        not_pruned=fbs.ineligible(dense_model, images),
    )
    write_pruned(result, model, dense, fbs, {"data": dataset.name, "seed": seed, "train": finishing.to_json()})
    for path in (lowering_path(output), output):
        resume_path(path).unlink(missing_ok=True)
    return result


def _method(name: str, density: float | None, seed: int, settings: dict[str, Any]) -> FBS:
    if density is None:
        raise CompressorError(f"method {name} needs a density: add --density, for example --density 0.5")
    kind = methods.get(name)
    if not issubclass(kind, FBS):
        raise MethodError(f"method {name} has no density schedule; choose fbs")
    try:
        return kind(**{"seed": seed, **settings, "density": density})
    except TypeError as error:
        raise MethodError(f"{name}: {error}; its settings are: {', '.join(kind().settings())}") from error


def _schedule(fbs: FBS, epochs: int | None) -> list[float]:
    if epochs is not None and epochs < 1:
        raise CompressorError(f"{epochs} epochs; pruning needs at least 1")
    return fbs.schedule(epochs)


def load_for_pruning(path: Path) -> checkpoint.CompressedCheckpoint:
    """Returns a checkpoint, dense or slim, that no method is attached to.

    Raises:
        CheckpointError: There is none, it is not usable, or a method is attached.
    """
    if not path.exists():
        raise CheckpointError(f"no checkpoint {path}; make one with: compress train --arch A --data D -o {path.name}")
    dense = checkpoint.load(path)
    if dense.method is not None:
        raise CheckpointError(f"{path} has {dense.method} attached already; give the network it was made from")
    return dense


def matching_data(spec: str, dense: checkpoint.CompressedCheckpoint, seed: int) -> Dataset:
    """Returns the data, split as for the dense network, with the preprocessing it was trained with.

    Raises:
        DataError: The data is not usable, or not what the network was made for.
    """
    dense_seed = dense.record.get("train", {}).get("settings", {}).get("seed", seed)
    dataset = load(spec, seed=dense_seed)
    if dense.classes and len(dense.classes) != len(dataset.classes):
        raise DataError(
            f"{spec} has {len(dataset.classes)} classes, the network {len(dense.classes)}; "
            "give the data it was trained on"
        )
    if dense.preprocessing.size != dataset.preprocessing.size:
        raise DataError(
            f"{spec} has inputs of size {dataset.preprocessing.size} (channels, height, width), "
            f"the network takes {dense.preprocessing.size}"
        )
    return replace(dataset, preprocessing=dense.preprocessing)


def _images(dataset: Dataset) -> Tensor:
    images, _ = next(iter(dataset.batches("val", Loader(_COUNTED_IMAGES))))
    return images


def _costs(model: nn.Module, images: Tensor, densities: Sequence[float]) -> dict[float, ModelCost]:
    costs = {}
    images = images.to(next(model.parameters()).device)
    for density in dict.fromkeys(densities):
        with at_density(model, density):
            costs[density] = count_macs(model, images)
    return costs
