"""The road of structured pruning: one search after the other, coarse to fine, retraining after each.

    counts within the budget -> (search channels -> shrink -> retrain) for each group
                             -> (search kernels  -> zeros  -> retrain) for each layer
                             -> (search strides  -> zeros, or smaller kernels -> retrain) for each layer

Masks are evaluated on images held out of the training data, the same in all searches; the validation split decides
which epoch of a retraining is taken, and whether a search of kernels or strides has to go back a step: to the best mask
with fewer units, retrained from where the search began. Every search and every epoch is written beside the output, so
that a killed run goes on to the same bits. (Coarse to fine, layer by layer: a reconstruction of arXiv 1512.08571.)
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compressor.data import Dataset, Loader
from compressor.errors import CompressorError, MethodError
from compressor.graph import ChannelGraph, trace
from compressor.methods.structured import Structured
from compressor.pipeline.stages import SEED_STRIDE, StageProgress, weights_of
from compressor.pipeline.structured.images import hold_out
from compressor.pipeline.structured.report import make_record, search_line, summary
from compressor.pipeline.structured.search import SearchWork, Stage, find_layers, prune_units, run_search
from compressor.pipeline.structured.state import (
    SearchState,
    load_search_state,
    retraining_path,
    save_search_state,
    state_path,
)
from compressor.plan import PruningPlan, plan_from_json, plan_to_json
from compressor.select import Limits
from compressor.shrink import reestimate_batch_norm, shrink
from compressor.train import Progress, TrainSettings, evaluate, resume_path, train
from compressor.train.precision import Precision, choose_precision, make_fabric

__all__ = ["Searches", "forget", "keep_zeros", "search_all"]

# Before the next search, where no retraining follows what the last one has left.
_BN_BATCHES = 10


@dataclass(frozen=True, eq=False)
class Searches:
    """What stays the same over a run.

    Attributes:
        method: Its numbers.
        graph: Channel graph of the network that the run starts from.
        counts: Channel group -> units that stay, for the groups to be searched.
        plan: What goes before any search.
        limits: Layers whose kernels and strides are left alone.
        dataset: To train and validate on.
        settings: Batch size, rates and so on of the retraining; its epochs are the method's.
        output: Names the files of the run.
        progress: Where to say how it goes.
    """

    method: Structured
    graph: ChannelGraph
    counts: Mapping[str, int]
    plan: PruningPlan
    limits: Limits
    dataset: Dataset
    settings: TrainSettings
    output: Path
    progress: Progress = Progress()  # noqa: RUF009  # says nothing, holds nothing


@dataclass(frozen=True, eq=False)
class _Run:
    """`Searches` and what follows from them."""

    wanted: Searches
    start: nn.Module
    rest: Dataset  # without the images of the searches
    work: SearchWork
    example: Tensor
    val_before: float
    stages: tuple[Stage, ...]


def search_all(
    wanted: Searches, model: nn.Module, *, resume: bool = False
) -> tuple[nn.Module, PruningPlan, dict[str, Any]]:
    """Returns the pruned and retrained network, the plan of what went physically, and a record of JSON values.

    Args:
        wanted: What to do.
        model: The network to begin with, trained; not changed.
        resume: Go on with what an earlier run left beside the output.

    Raises:
        MethodError: A setting is not allowed, no layer can lose what is asked for, or the metric is not in [0, 1].
        CheckpointError: There is nothing to resume, or it belongs to another run.
        CompressorError: Training diverged, or everything that was pruned had to be given back.
    """
    method, seed = wanted.method, wanted.settings.seed
    method.check()
    stages = _stages(wanted, model)
    rest, batches = hold_out(wanted.dataset, method.images, seed=seed)
    fabric = make_fabric(Precision("32", channels_last=True, reason="only its processes are used"))
    batches = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(fabric.device), fabric.broadcast(batches))
    run = _Run(
        wanted=wanted,
        start=model,
        rest=rest,
        work=SearchWork(method, batches, wanted.dataset.task, fabric, False, seed),
        example=batches[0][0][:2].cpu(),
        val_before=evaluate(model, rest, "val").top1,
        stages=stages,
    )
    state = load_search_state(state_path(wanted.output), _task(run)) if resume else _begun(run)
    if resume:
        wanted.progress.line(f"goes on after {len(state.searches)} of {len(stages)} searches")
    pruned = _model(run, state)
    for number, stage in enumerate(stages, start=1):
        if len(state.searches) < number:
            state = _searched(run, stage, pruned, state)
            save_search_state(state_path(wanted.output), state)
        if state.before is None or len(state.searches) > number:
            continue
        while state.before is not None:
            own = retraining_path(wanted.output, number, state.searches[-1].pruned)
            state = _retrained(run, stage, state, own, resume=resume)
            save_search_state(state_path(wanted.output), state)
            resume_path(own).unlink(missing_ok=True)
        pruned = _model(run, state)
        line = search_line(state.searches[-1], number, of=len(stages), metric=rest.task.name)
        wanted.progress.line(line)
    if stages and not any(search.kept for search in state.searches):
        forget(wanted.output)
        raise CompressorError(
            f"whatever was pruned cost more than {method.max_drop:.1%} of the validation {rest.task.name}, so it was "
            "given back: ask for less, retrain longer (--set layer_epochs=5), or allow more (--set max_drop=0.03)"
        )
    record = make_record(state.searches, model, pruned, run.example)
    wanted.progress.line(summary(record))
    return pruned, plan_from_json(json.dumps(state.plan)), record


def keep_zeros(method: Structured, model: nn.Module) -> Structured:
    """Returns the method's hooks for further training: they hold the kernel weights that are 0 now."""
    keeper = Structured(**method.settings())
    keeper.attach(model, torch.empty(0))
    return keeper


def forget(output: Path) -> None:
    """Removes what a run keeps beside its output to go on."""
    state_path(output).unlink(missing_ok=True)
    for path in output.parent.glob(f"{output.name}.search*.resume"):
        path.unlink(missing_ok=True)


def _stages(wanted: Searches, model: nn.Module) -> tuple[Stage, ...]:
    """All searches of a run, in order."""
    method, stages = wanted.method, []
    asked: list[tuple[str, list[str]]] = [("channel", list(wanted.counts))]
    for granularity, is_asked in (("kernel", method.kernel_density < 1), ("strided", method.stride > 1)):
        names = find_layers(model, wanted.graph, granularity, wanted.limits) if is_asked else []
        if is_asked and not names:
            what = "kernels" if granularity == "kernel" else "positions inside kernels"
            raise MethodError(f"no convolution of this network can lose {what}; see --include and --exclude")
        asked.append((granularity, names))
    for granularity, names in asked:
        together = [names] if method.scope == "net" and names else [[name] for name in names]
        for members in together:
            counts = tuple(wanted.counts[name] for name in members) if granularity == "channel" else ()
            stages.append(Stage(granularity, tuple(members), counts))
    return tuple(stages)


def _begun(run: _Run) -> SearchState:
    forget(run.wanted.output)
    batches = run.rest.batches("train", Loader(run.wanted.settings.batch_size, shuffle=True))
    asked = run.wanted.settings.precision
    precision = choose_precision(run.start, batches, loss=run.rest.task.loss, wanted=asked)
    run.wanted.progress.line(f"precision: {precision.name} ({precision.reason})")
    model = shrink(run.start, run.wanted.graph, run.wanted.plan)
    state = SearchState(_task(run), precision.name, _json(run.wanted.plan), weights_of(model), None, ())
    save_search_state(state_path(run.wanted.output), state)
    return state


def _searched(run: _Run, stage: Stage, model: nn.Module, state: SearchState) -> SearchState:
    """The state after a search, before its retraining."""
    number = len(state.searches) + 1
    device = run.work.batches[0][0].device
    work, graph = replace(run.work, bf16=state.precision == "bf16"), trace(model.cpu(), run.example)
    levels = run_search(work, stage, model.to(device), graph, number=number)
    levels = levels[-1:] if stage.granularity == "channel" else levels
    found = replace(
        state,
        before=weights_of(model),
        searches=(*state.searches, levels[-1].record),
        masks=torch.stack([level.mask for level in levels]),
        fallbacks=tuple(level.record for level in levels),
    )
    return _stepped(run, stage, found)


def _stepped(run: _Run, stage: Stage, state: SearchState) -> SearchState:
    """The state with the mask that prunes most of those that are left, before its retraining."""
    number, record = len(state.searches), state.fallbacks[-1]
    assert state.before is not None
    plan = _without(state, record.names)
    model = _network(run, plan, state.before)
    pruned, own = prune_units(run.wanted.method, stage, model, trace(model, run.example), state.masks[-1])
    if not run.wanted.method.layer_epochs:
        batches = run.rest.batches("train", Loader(run.wanted.settings.batch_size, shuffle=True, seed=number))
        pruned = reestimate_batch_norm(pruned, batches, num_batches=_BN_BATCHES)
    record = replace(record, val_cut=evaluate(pruned, run.rest, "val").top1)
    return replace(
        state,
        plan=_json(_joined(plan, own)),
        model=weights_of(pruned),
        searches=(*state.searches[:-1], record),
        masks=state.masks[:-1],
        fallbacks=state.fallbacks[:-1],
    )


def _retrained(run: _Run, stage: Stage, state: SearchState, own: Path, *, resume: bool) -> SearchState:
    """The state after a search's retraining; after one that did not help, with fewer units pruned, or none.

    Args:
        run: What stays the same.
        stage: What was searched.
        state: With the mask to retrain under.
        own: Name of the retraining's own state.
        resume: Go on with it.
    """
    method, number, model = run.wanted.method, len(state.searches), _model(run, state)
    record = state.searches[-1]
    val = record.val_cut
    if method.layer_epochs:
        settings = replace(
            run.wanted.settings,
            epochs=method.layer_epochs,
            precision=state.precision,
            seed=run.wanted.settings.seed + number * SEED_STRIDE,
            task=f"search {number}: {state.task}",
        )
        val = train(
            model,
            run.rest,
            settings=settings,
            method=keep_zeros(method, model),
            checkpoint_path=own,
            resume=resume and resume_path(own).is_file(),
            progress=StageProgress(run.wanted.progress, f"search {number}, " if method.layer_epochs > 1 else None),
        ).val_top1
    kept = record.granularity == "channel" or val >= run.val_before - method.max_drop
    searches = (*state.searches[:-1], replace(record, val_top1=val, kept=kept))
    if kept:
        none = state.masks[:0]
        return replace(state, model=weights_of(model), before=None, searches=searches, masks=none, fallbacks=())
    if state.fallbacks:
        return _stepped(run, stage, state)
    assert state.before is not None
    plan = _without(state, record.names)
    return replace(state, plan=_json(plan), model=state.before, before=None, searches=searches)


def _without(state: SearchState, names: tuple[str, ...]) -> PruningPlan:
    """The plan without what a mask of the last search has removed; channels are not taken back."""
    plan = plan_from_json(json.dumps(state.plan))
    return replace(plan, taps={name: taps for name, taps in plan.taps.items() if name not in names})


def _model(run: _Run, state: SearchState) -> nn.Module:
    """The network where the run stands."""
    return _network(run, plan_from_json(json.dumps(state.plan)), state.model)


def _network(run: _Run, plan: PruningPlan, weights: Mapping[str, Tensor]) -> nn.Module:
    model = shrink(run.start, run.wanted.graph, plan)
    model.load_state_dict(weights)
    return model.eval()


def _joined(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """Two plans after each other as one; no group and no layer is cut by both."""
    assert not set(first.keep) & set(second.keep)
    assert not set(first.taps) & set(second.taps)
    return PruningPlan({**first.keep, **second.keep}, {**first.sizes, **second.sizes}, {**first.taps, **second.taps})


def _task(run: _Run) -> str:
    """What decides a run besides its random numbers, for those that go on with it."""
    shared = {k: v for k, v in asdict(run.wanted.settings).items() if k not in ("epochs", "num_workers")}
    return json.dumps(
        {
            "data": run.rest.name,
            "method": run.wanted.method.settings(),
            "stages": [asdict(stage) for stage in run.stages],
            "plan": _json(run.wanted.plan),
            "settings": shared,
        }
    )


def _json(plan: PruningPlan) -> dict[str, Any]:  # JSON values
    values: dict[str, Any] = json.loads(plan_to_json(plan))
    return values
