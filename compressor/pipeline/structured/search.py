"""One search of structured pruning: from a network and what shall go to masks, and to the network under one of them."""

import time
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from compressor.data import Batch, Task
from compressor.graph import ChannelGraph
from compressor.methods.l1 import magnitudes
from compressor.methods.structured import Structured
from compressor.methods.structured_evaluator import Evaluator
from compressor.methods.structured_filter import Errors, search
from compressor.methods.structured_masks import Particles, split_blocks
from compressor.methods.structured_units import (
    Target,
    channel_target,
    kernel_target,
    layer_masks,
    strided_target,
    weight_mask,
    with_losses,
)
from compressor.pipeline.structured.state import SearchRecord
from compressor.plan import KernelTaps, PruningPlan
from compressor.select import Limits
from compressor.shrink import fits_taps, shrink

__all__ = ["Level", "SearchWork", "Stage", "find_layers", "prune_units", "run_search"]


@dataclass(frozen=True)
class Stage:
    """One search to make.

    Attributes:
        granularity: `channel`, `kernel` or `strided`.
        names: Channel groups or layers that are searched together.
        counts: Channels only: how many units of each stay.
    """

    granularity: str
    names: tuple[str, ...]
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class SearchWork:
    """What all searches of a run share.

    Attributes:
        method: Its numbers.
        batches: Images on which masks are evaluated, with targets.
        task: Its metric is one minus the misclassification rate.
        fabric: The processes among which masks are dealt out.
        bf16: Evaluate in bfloat16, as the run trains; the network and the mask that was taken, in float32 too.
        seed: Of everything random.
    """

    method: Structured
    batches: list[Batch]
    task: Task
    fabric: Fabric
    bf16: bool
    seed: int


@dataclass(frozen=True, eq=False)
class Level:
    """The best mask at one number of pruned units.

    Attributes:
        mask: int8, (units,), 0 where a unit stays; of all blocks of the search.
        record: How it came about; the validation metrics are still to come.
    """

    mask: Tensor
    record: SearchRecord


def find_layers(model: nn.Module, graph: ChannelGraph, granularity: str, limits: Limits) -> list[str]:
    """Returns the convolutions whose kernels, or positions inside kernels, may be pruned, in the network's order.

    1. Two-dimensional, one group, reached by the traced run, within the limits' patterns.
    2. For `kernel`: not one that reads the network's input, and at least two input maps.
    3. For `strided`: kernels larger than 1×1.
    """
    modules = dict(model.named_modules())
    found: list[str] = []
    for layer in graph.layers:
        module = modules.get(layer.name)
        if not isinstance(module, nn.Conv2d) or module.groups > 1 or layer.name in found:
            continue
        if limits.include and not any(fnmatchcase(layer.name, pattern) for pattern in limits.include):
            continue
        if any(fnmatchcase(layer.name, pattern) for pattern in limits.exclude):
            continue
        first = bool((layer.inputs < 0).all())
        if module.in_channels > 1 and not first if granularity == "kernel" else max(module.kernel_size) > 1:
            found.append(layer.name)
    return found


def run_search(
    work: SearchWork, stage: Stage, model: nn.Module, graph: ChannelGraph, *, number: int
) -> tuple[Level, ...]:
    """Returns the best masks that a search has found on its way to all that is asked for, fewest pruned units first.

    Args:
        work: What all searches share.
        stage: What is searched.
        model: The network as it is now, on the images' device; not changed.
        graph: Its channel graph.
        number: Of the search in the run; keeps the random numbers of searches apart.

    Raises:
        MethodError: The network cannot be evaluated.
    """
    start = time.perf_counter()
    targets = _targets(work.method, stage, model, graph)
    if work.method.guided:
        scores = magnitudes(model, graph) if stage.granularity == "channel" else {}
        targets = [with_losses(target, model, scores) for target in targets]
    errors = _errors(work, targets, model, graph, bf16=work.bf16)
    blocks = [target.block for target in targets]
    found = search(blocks, errors, work.method.filter_settings(), seed=(work.seed, number))
    precise = _errors(work, targets, model, graph, bf16=False) if work.bf16 else errors
    before, *rates = precise(np.stack([np.zeros_like(found.particle), *found.levels])).tolist()
    seconds = time.perf_counter() - start
    levels = []
    for mask, rate in zip(found.levels, rates, strict=True):
        pruned = int((mask != 0).sum())
        record = SearchRecord(
            granularity=stage.granularity,
            names=stage.names,
            units=len(mask),
            asked=int((found.particle != 0).sum()),
            pruned=pruned,
            evaluations=found.evaluations,
            seconds=seconds,
            error_before=before,
            error_median=next(step.median for step in found.steps if step.num_pruned == pruned),
            error=rate,
            val_cut=0.0,
        )
        levels.append(Level(torch.from_numpy(mask), record))
    return tuple(levels)


def prune_units(
    method: Structured, stage: Stage, model: nn.Module, graph: ChannelGraph, mask: Tensor
) -> tuple[nn.Module, PruningPlan]:
    """Returns the network without the units of a mask, and what of them was removed physically.

    Args:
        method: Its numbers.
        stage: What was searched.
        model: The network of the search; not changed.
        graph: Its channel graph.
        mask: (units,), see `Level`.
    """
    targets = _targets(method, stage, model, graph)
    blocks = [target.block for target in targets]
    parts = [part[0] for part in split_blocks(mask.numpy()[None], blocks)]
    plan = _plan(model, targets, parts)
    cut = shrink(model, graph, plan)
    with torch.no_grad():
        for target, part in zip(targets, parts, strict=True):
            if target.weight is not None and target.block.name not in plan.taps:
                weight = cut.get_parameter(target.weight)
                weight.masked_fill_(~weight_mask(target, part).to(weight.device), 0.0)
    return cut, plan


def _errors(work: SearchWork, targets: list[Target], model: nn.Module, graph: ChannelGraph, *, bf16: bool) -> Errors:
    """What gives the misclassification rates of masks, shared out among the processes."""
    evaluator = Evaluator(
        model.eval(),
        work.batches,
        work.task,
        searched=[call for target in targets for call in target.calls],
        aliases=graph.aliases,
        batch_statistics=work.method.batch_statistics,
        bf16=bf16,
    )
    device = work.batches[0][0].device

    def errors(particles: Particles) -> npt.NDArray[np.float64]:
        masks = layer_masks(targets, particles, device=device)
        rank, num_ranks = work.fabric.global_rank, work.fabric.world_size
        own = evaluator.errors(masks, rank=rank, num_ranks=num_ranks)
        if num_ranks == 1:
            return own
        shared = work.fabric.all_reduce(torch.from_numpy(own).to(device), reduce_op="sum")
        return np.asarray(torch.as_tensor(shared).cpu().numpy(), dtype=np.float64)

    return errors


def _targets(method: Structured, stage: Stage, model: nn.Module, graph: ChannelGraph) -> list[Target]:
    if stage.granularity == "channel":
        sizes = zip(stage.names, stage.counts, strict=True)
        return [channel_target(graph, graph.group(name), graph.group(name).size - count) for name, count in sizes]
    targets = []
    for name in stage.names:
        shape = tuple(model.get_parameter(f"{name}.weight").shape)
        calls = sum(layer.name == name for layer in graph.layers)
        if stage.granularity == "kernel":
            targets.append(kernel_target(name, shape, method.kernel_density, num_calls=calls))
        else:
            targets.append(
                strided_target(
                    name,
                    shape,
                    method.stride,
                    part=method.strided_part,
                    per_axis=method.per_axis,
                    sharing=method.sharing,
                    num_calls=calls,
                )
            )
    return targets


def _plan(model: nn.Module, targets: list[Target], parts: list[npt.NDArray[np.int8]]) -> PruningPlan:
    """What goes physically: channels, and rows and columns of kernels where that leaves a convolution."""
    plan = PruningPlan()
    for target, part in zip(targets, parts, strict=True):
        if target.reads is not None:
            name, size = target.block.name, target.block.size
            kept = tuple(np.flatnonzero(part.reshape(-1) == 0).tolist())
            plan = replace(plan, keep={**plan.keep, name: kept}, sizes={**plan.sizes, name: size})
        elif target.patterns is not None and (part == part[0, 0]).all() and part[0, 0]:
            stays = target.patterns[int(part[0, 0]) - 1]
            rows, columns = np.flatnonzero(stays.any(axis=1)), np.flatnonzero(stays.any(axis=0))
            height, width = stays.shape
            taps = KernelTaps((height, width), tuple(rows.tolist()), tuple(columns.tolist()))
            rectangle = np.outer(stays.any(axis=1), stays.any(axis=0))
            if (stays == rectangle).all() and fits_taps(model.get_submodule(target.block.name), taps):
                plan = replace(plan, taps={**plan.taps, target.block.name: taps})
    return plan
