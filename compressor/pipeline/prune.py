"""The road of `compress prune`: a dense checkpoint in, a pruned checkpoint and its accuracy/MACs curve out.

FBS is attached at density 1 and trained in two stages that share one learning-rate curve: a line up while the
density falls step by step, half a cosine down at the final density. The epoch is chosen on the validation
split among those at the final density; the test split is looked at once, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compressor import checkpoint, methods
from compressor.costs.macs import ModelCost, count_macs
from compressor.data import UNLABELLED, Dataset, Loader, PhotoSplit, load
from compressor.errors import CheckpointError, CompressorError, DataError, MethodError
from compressor.graph import trace
from compressor.graph.pairs import conv_bn_pairs
from compressor.methods.fbs import FBS, at_density, set_density
from compressor.methods.fbs_blocks import activities, order_for_blocks
from compressor.pipeline.density import DensityRun, lowering_path, train_stage
from compressor.pipeline.method_settings import make_method
from compressor.pipeline.pruned import CurvePoint, PrunedNetwork, make_curve, write_pruned
from compressor.pipeline.teacher import Distillation, gives_probabilities, imitating, load_teacher, on_probabilities
from compressor.pipeline.train import check_output, split_seed_of
from compressor.pipeline.unfolded import unfolded
from compressor.shrink import arrange
from compressor.train import Progress, Teacher, TrainSettings, evaluate, resume_path

__all__ = ["FINE_TUNING", "CurvePoint", "PrunedNetwork", "load_for_pruning", "matching_data", "prune"]

# Images on which the live channels of residual sums are measured; a chain needs none.
_COUNTED_IMAGES = 64
# Training images on which channels that fire together are found.
_WATCHED_IMAGES, _WATCHED_BATCH = 2000, 50
# One quarter of dense training's peak rate, gradient clipped at norm 5: tried on M-CifarNet, CIFAR-10.
FINE_TUNING = TrainSettings(peak_lr=0.05, clip_norm=5.0)


def prune(
    source: str | Path | checkpoint.CompressedCheckpoint,
    *,
    method: str = "fbs",
    data: str | Dataset | None,
    density: float | None,
    output: Path,
    epochs: int | None = None,
    resume: bool = False,
    seed: int = 0,
    settings: TrainSettings | None = None,
    method_settings: dict[str, Any] | None = None,
    distillation: Distillation | None = None,
    progress: Progress | None = None,
) -> PrunedNetwork:
    """Prunes a trained network and writes its checkpoint.

    Args:
        source: a checkpoint or its path: dense, slim, or of an earlier FBS run, which then goes on from its density.
        method: `fbs`.
        data: a data set, or what `compressor.data.load` takes; of that, the validation split is the one the dense
            network never saw.
        density: fraction of each layer's channels that is computed, in (0, 1].
        output: the checkpoint to write; the state of an unfinished run lies beside it.
        epochs: of the whole schedule; None takes the method's.
        resume: go on with an unfinished run, with the same settings.
        seed: order of images, augmentation, dropout, predictors' start weights.
        settings: batch size, peak learning rate and so on; its epochs, warm-up and seed are this function's.
        method_settings: fields of the method besides density and seed.
        distillation: a network to imitate besides learning the labels.
        progress: where to say how it goes.

    Raises:
        CompressorError: something is missing, or a file, data set or setting is not usable; or training
            diverged.
    """
    fbs = _method(method, density, seed, method_settings or {})
    if data is None:
        raise CompressorError("pruning trains the network, so it needs data: add --data, for example --data digits")
    progress = progress or Progress()
    check_output(output, source=source)
    saved = load_for_pruning(source, beside="fbs")
    dataset = matching_data(data, saved, seed, distillation=distillation)
    # Where the data is answered by the teacher already, there is nothing to mix.
    teacher = load_teacher(distillation, saved) if dataset.answers is None else None
    saved = unfolded(saved, dataset, progress=progress)
    images = _images(dataset)
    start = _continued(saved, fbs) if saved.method == "fbs" else _attached(saved, fbs, dataset, images)
    densities = _schedule(fbs, epochs, start)
    model, fbs = start.model, start.fbs
    learned_from = None if distillation is None else distillation.to_json()
    settings = replace(settings or FINE_TUNING, seed=seed)
    run = DensityRun(fbs, dataset, output, resume, settings, progress, teacher, learned_from)

    progress.line(f"dense: val {dataset.task.name} {start.dense_val_top1:.2%}, {start.dense_macs / 1e6:.2f} M MACs")
    way = [value for value in densities if value > fbs.density]
    final = densities[len(way) :]
    lowering = train_stage(run, model, way, lowering_path(output), warmup=1.0) if way else None
    costs = _costs(model, images, way)
    # Without a stage before it, the final one has its own warm-up.
    finishing = train_stage(run, model, final, output, warmup=0.0 if way else run.settings.warmup_fraction)
    costs |= _costs(model, images, final)

    epochs_done = [*(lowering.epochs if lowering is not None else ()), *finishing.epochs]
    curve = make_curve(epochs_done, densities, costs, start.dense_macs)
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
        dense_val_top1=start.dense_val_top1,
        dense_test_top1=start.dense_test_top1,
        dense_macs=start.dense_macs,
        not_pruned=start.not_pruned,
        metric=dataset.task.name,
    )
    about = {
        "data": dataset.name,
        "seed": seed,
        "split_seed": split_seed_of(saved, seed),
        "train": finishing.to_json(),
        "distillation": learned_from,
        **start.about,
    }
    write_pruned(result, model, saved, fbs, about)
    for path in (lowering_path(output), output):
        resume_path(path).unlink(missing_ok=True)
    return result


def _method(name: str, density: float | None, seed: int, settings: dict[str, Any]) -> FBS:
    if density is None:
        raise CompressorError(f"method {name} needs a density: add --density, for example --density 0.5")
    if not issubclass(methods.get(name), FBS):
        raise MethodError(f"method {name} has no density schedule; choose fbs")
    fbs = make_method(name, {"seed": seed, **settings, "density": density})
    assert isinstance(fbs, FBS)
    return fbs


@dataclass(frozen=True)
class _Start:
    """The network with FBS attached, before this run, and the dense one it came from."""

    model: nn.Module
    fbs: FBS
    density: float | None  # that it was trained at already
    dense_val_top1: float
    dense_test_top1: float | None
    dense_macs: float
    not_pruned: dict[str, str]
    about: dict[str, Any]  # for the record: JSON values


def _attached(saved: checkpoint.CompressedCheckpoint, fbs: FBS, dataset: Dataset, images: Tensor) -> _Start:
    dense = checkpoint.rebuild(saved)
    if fbs.winner_block > 1 and fbs.block_by == "activity":
        dense = _in_blocks(dense, fbs.winner_block, dataset, images)
    model = fbs.attach(dense, images)
    val = evaluate(dense, dataset, "val").top1
    macs = count_macs(dense, images).macs
    left = fbs.ineligible(dense, images)
    return _Start(model, fbs, None, val, saved.record.get("test_top1"), macs, left, {"dense": saved.record})


def _in_blocks(dense: nn.Module, block: int, dataset: Dataset, example: Tensor) -> nn.Module:
    """The same network with its channels in another order: those that fire together are neighbours."""
    batches = dataset.batches("train", Loader(_WATCHED_BATCH, shuffle=True))
    watched = (images for images, _ in islice(batches, _WATCHED_IMAGES // _WATCHED_BATCH))
    activity = activities(dense, conv_bn_pairs(dense, example)[0], watched)
    graph = trace(dense, example)
    return arrange(dense, graph, order_for_blocks(graph, activity, block)).eval()


def _continued(saved: checkpoint.CompressedCheckpoint, fbs: FBS) -> _Start:
    """Goes on where another FBS run ended, at its density or another one."""
    before = {**FBS().settings(), **(saved.method_settings or {})}
    fixed = ("form", "saliency", "subsample", "normalize", "winner_block")
    other = [name for name in fixed if before[name] != getattr(fbs, name)]
    if other:
        raise MethodError(f"the checkpoint was made with other {', '.join(other)}; give the dense network instead")
    dense = saved.record["before"]
    return _Start(
        model=checkpoint.rebuild(saved),
        fbs=fbs,
        density=saved.density,
        dense_val_top1=dense["val_top1"],
        dense_test_top1=dense["test_top1"],
        dense_macs=dense["macs"],
        not_pruned=saved.record["not_pruned"],
        about={"dense": saved.record["dense"], "continues": {**saved.record, "dense": None}},
    )


def _schedule(fbs: FBS, epochs: int | None, start: _Start) -> list[float]:
    if epochs is not None and epochs < 1:
        raise CompressorError(f"{epochs} epochs; pruning needs at least 1")
    return fbs.schedule(epochs, start=start.density)


def load_for_pruning(
    source: str | Path | checkpoint.CompressedCheckpoint, *, beside: str | None = None, method: str | None = None
) -> checkpoint.CompressedCheckpoint:
    """Returns a checkpoint, dense or slim, that no method is attached to besides the one named.

    Args:
        source: A checkpoint or its path.
        beside: The method that may be attached already.
        method: The method that is to prune it.

    Raises:
        CheckpointError: There is none, it is not usable, another method is attached, or its weights are in fixed point.
    """
    name = "the network" if isinstance(source, checkpoint.CompressedCheckpoint) else str(source)
    saved = _opened(source)
    if saved.method not in (None, beside):
        raise CheckpointError(f"{name} has {saved.method} attached already; give the network it was made from")
    if saved.fixed_point is not None:
        raise CheckpointError(f"{name} is in fixed point, which comes last; give the float network it was made from")
    if method != "structured" and (lost := _lost_zeros(saved)):
        raise CheckpointError(
            f"{name} has zeros inside its kernels (structured: {lost}) that {method or beside} would train away: "
            "remove channels first, prune inside kernels last, then quantize or export"
        )
    return saved


def _lost_zeros(saved: checkpoint.CompressedCheckpoint) -> str | None:
    """What structured pruning has zeroed inside kernels and only its own hooks keep; None where there is nothing."""
    settings = saved.record.get("settings") if saved.record.get("method") == "structured" else None
    if not isinstance(settings, dict):
        return None
    kinds = [("kernels", settings.get("kernel_density", 1) < 1), ("strides", settings.get("stride", 1) > 1)]
    return " and ".join(kind for kind, there in kinds if there) or None


def _opened(source: str | Path | checkpoint.CompressedCheckpoint) -> checkpoint.CompressedCheckpoint:
    if isinstance(source, checkpoint.CompressedCheckpoint):
        return source
    path = Path(source)
    if not path.exists():
        raise CheckpointError(f"no checkpoint {path}; make one with: compress train --arch A --data D -o {path.name}")
    return checkpoint.load(path)


def matching_data(
    data: str | Dataset,
    dense: checkpoint.CompressedCheckpoint,
    seed: int,
    *,
    distillation: Distillation | None = None,
) -> Dataset:
    """Returns the data, split as for the dense network, with the preprocessing it was trained with.

    Images without labels are answered by the network to imitate, or else by the dense network itself.

    Args:
        data: A data set, or what `compressor.data.load` takes.
        dense: The network's checkpoint.
        seed: Of the split, where the checkpoint does not say.
        distillation: The network to imitate, where the user names one.

    Raises:
        DataError: The data is not usable, or not what the network was made for.
        CompressorError: The network to imitate is not usable.
    """
    dataset = data if isinstance(data, Dataset) else load(data, seed=split_seed_of(dense, seed))
    spec, size = dataset.name, dense.preprocessing.size
    unlabelled = dataset.task is UNLABELLED
    if dense.classes and not unlabelled and len(dense.classes) != len(dataset.classes):
        raise DataError(
            f"{spec} has {len(dataset.classes)} classes, the network {len(dense.classes)}; "
            "give the data it was trained on"
        )
    # Photos are brought to any size.
    given = dataset.preprocessing.size
    if given != size and not (isinstance(dataset.train, PhotoSplit) and given[0] == size[0]):
        raise DataError(f"{spec} has inputs of size {given} (channels, height, width), the network takes {size}")
    dataset, probabilities = replace(dataset, preprocessing=dense.preprocessing), gives_probabilities(dense)
    if unlabelled:
        itself = Teacher(checkpoint.rebuild(dense), probabilities=probabilities)
        dataset = imitating(dataset, load_teacher(distillation, dense) or itself)
    return on_probabilities(dataset) if probabilities else dataset


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
