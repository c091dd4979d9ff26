"""The road of RBP (reconstruction): layer by layer in forward order, each in the network that is already pruned.

    share out -> (noise on one layer -> train -> prune -> fold -> shrink -> batch norm anew) ... -> slim network, plan

How many channels each layer may keep comes from the budget: shared out over the layers by a short training with noise
on all of them (or evenly). A layer whose noise finds more of them redundant keeps fewer, and the later ones share what
is gained; with a constant lam each layer keeps what its own noise says, more or fewer, as long as the later ones can
still meet the budget. Which channels, each layer's own noise decides, inferred after the layers before it were cut.
Everything is learned from training batches; the validation split only watches, the test split is not touched.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compressor.costs.widths import count_units, planned_macs, width_costs
from compressor.data import Loader
from compressor.errors import BudgetError
from compressor.graph.narrow import narrowed
from compressor.methods.rbp_layer import find_noise
from compressor.methods.rbp_places import ChainStep
from compressor.pipeline.rbp.report import LABEL, layer_line, write_report
from compressor.pipeline.rbp.shares import even_scores, open_choices, share_out, shares_with, unit_scores
from compressor.pipeline.rbp.stage import Recursion, Stage, cut_layer, train_stage
from compressor.pipeline.rbp.state import (
    LayerRecord,
    RBPState,
    histogram,
    layer_path,
    load_rbp_state,
    save_rbp_state,
    state_path,
)
from compressor.pipeline.stages import first_process, plan_of, weights_of
from compressor.plan import PruningPlan
from compressor.select import check_reachable
from compressor.shrink import shrink
from compressor.train import evaluate, resume_path
from compressor.train.precision import choose_precision

__all__ = ["Recursion", "forget", "recurse"]


def recurse(run: Recursion, model: nn.Module, *, resume: bool = False) -> tuple[nn.Module, PruningPlan]:
    """Returns the slim network and the plan that cuts the one before the run to its shape.

    Args:
        run: what to do.
        model: the plain network, trained; not changed.
        resume: go on with what an earlier run left beside the output.

    Raises:
        MethodError: no layer can carry noise, or a setting is not allowed.
        BudgetError: the budget cannot be met.
        CheckpointError: there is nothing to resume, or it belongs to another run.
        CompressorError: training diverged.
    """
    steps, left = run.rbp.steps(model, run.graph)
    run = replace(run, choices=open_choices(run.graph, run.choices, [step.group for step in steps]))
    _check_budget(run, left)
    state = _resumed(run, len(steps)) if resume else _begun(run, model, len(steps))
    for name, reason in left.items():
        run.progress.line(f"{LABEL} leaves {name} whole: {reason}")
    if not len(state.shares):
        state = _shared(run, model, steps, state, resume=resume)
        _keep(run, state)
    while state.done < len(steps):
        state = _next(run, _rebuilt(run, model, state), steps, state, resume=resume)
        _keep(run, state)
    if first_process():
        write_report(state.layers, run.output)
    return _rebuilt(run, model, state), plan_of(run.graph, state.keep)


def forget(output: Path) -> None:
    """Removes what a run keeps beside its output to go on."""
    state_path(output).unlink(missing_ok=True)
    for path in output.parent.glob(f"{output.name}.rbp*.resume"):
        path.unlink(missing_ok=True)


def _begun(run: Recursion, model: nn.Module, num_steps: int) -> RBPState:
    forget(run.output)
    batches = run.dataset.batches("train", Loader(run.settings.batch_size, shuffle=True))
    precision = choose_precision(model, batches, loss=run.dataset.task.loss, wanted=run.settings.precision)
    run.progress.line(f"precision: {precision.name} ({precision.reason})")
    epochs = f"{run.rbp.layer_epochs} epoch{'s' * (run.rbp.layer_epochs != 1)} each"
    shared = f" after {run.rbp.share_epochs} that share the budget out" if run.rbp.share_epochs else ""
    run.progress.line(f"{LABEL}: {num_steps} layers, {epochs}{shared}")
    keep = np.ones(run.graph.num_units, dtype=np.bool_)
    empty = torch.zeros(0)
    state = RBPState(_task(run), precision.name, empty, np.zeros(0, dtype=np.int64), keep, 0, (), weights_of(model))
    _keep(run, state)
    return state


def _resumed(run: Recursion, num_steps: int) -> RBPState:
    state = load_rbp_state(state_path(run.output), _task(run))
    run.progress.line(f"{LABEL} goes on after {state.done} of {num_steps} layers")
    return state


def _shared(
    run: Recursion, model: nn.Module, steps: tuple[ChainStep, ...], state: RBPState, *, resume: bool
) -> RBPState:
    """Scores units by noise on all layers at once; the budget is shared out by them, nothing else."""
    if not run.rbp.share_epochs:
        scores = even_scores(run.graph)
        return replace(state, scores=scores, shares=share_out(run.graph, run.choices, scores))
    stage = Stage(
        number=0,
        text=f"{LABEL} shares out, ",
        steps=steps,
        counts=count_units(run.graph, state.keep),
        goal=run.choices.target,
        epochs=run.rbp.share_epochs,
        precision=state.precision,
        task=state.task,
        resume=resume,
    )
    noisy, _ = train_stage(run, model, stage)
    scores = unit_scores(run.graph, run.rbp.scores(noisy).values)
    return replace(state, scores=scores, shares=share_out(run.graph, run.choices, scores))


def _next(run: Recursion, slim: nn.Module, steps: tuple[ChainStep, ...], state: RBPState, *, resume: bool) -> RBPState:
    """Trains the next layer of the chain with noise on its input, prunes and folds; `slim` is pruned up to it."""
    start, number, name = time.perf_counter(), state.done + 1, steps[state.done].group
    group, text = run.graph.group(name), f"{LABEL} layer {number}/{len(steps)}"
    place = run.graph.groups.index(group)
    wanted = int(state.shares[place])
    if not run.rbp.lam and wanted == group.size:
        run.progress.line(f"{text} {name}: all {group.size} channels stay")
        return replace(state, done=number)
    counts = count_units(run.graph, state.keep)
    reached = counts.copy()
    reached[place] = wanted
    graph = narrowed(run.graph, state.keep)
    stage = Stage(
        number=number,
        text=f"{text}, ",
        steps=tuple(step for step in run.rbp.steps(slim, graph)[0] if step.group == name),
        counts=counts,
        goal=run.choices.cost(reached),
        epochs=run.rbp.layer_epochs,
        precision=state.precision,
        task=state.task,
        resume=resume,
    )
    noisy, trained = train_stage(run, slim, stage)
    (noise,) = find_noise(noisy)
    rates = noise.rates.detach().cpu()
    redundant = int((rates > run.rbp.threshold).sum())
    shares = shares_with(
        run.graph,
        run.choices,
        state.scores,
        shares=state.shares,
        decided=[step.group for step in steps[:number]],
        natural=group.size - redundant if run.rbp.lam else min(wanted, group.size - redundant),
    )
    wanted = int(shares[place])
    # The mean keep probability, not the rate: near 1 the rate's last bits are lost.
    order = torch.argsort(noise.law.mean(noise.logits.detach()).cpu(), descending=True, stable=True)
    kept = tuple(sorted(order[:wanted].tolist()))
    plan = PruningPlan({name: kept}, {name: group.size})
    cut = cut_layer(run, noisy, slim, graph, plan=plan, number=number)
    keep = state.keep.copy()
    keep[group.start : group.start + group.size] = np.isin(np.arange(group.size), kept)
    bins, undecided = histogram(rates)
    costs = width_costs(run.graph)
    layer = LayerRecord(
        group=name,
        units=group.size,
        kept=wanted,
        redundant=redundant,
        undecided=undecided,
        histogram=bins,
        lam=run.rbp.current_lam(noisy),
        train_loss=trained.epochs[-1].train_loss,
        val_noise=trained.epochs[-1].val_top1,
        val_top1=evaluate(cut, run.dataset, "val").top1,
        macs=planned_macs(costs, count_units(run.graph, keep)),
        macs_before=planned_macs(costs, count_units(run.graph, np.ones_like(keep))),
        seconds=time.perf_counter() - start,
    )
    run.progress.line(layer_line(layer, text=text, metric=run.dataset.task.name))
    return replace(state, shares=shares, keep=keep, done=number, layers=(*state.layers, layer), model=weights_of(cut))


def _check_budget(run: Recursion, left: dict[str, str]) -> None:
    try:
        check_reachable(run.graph, run.choices)
    except BudgetError as error:
        reasons = "".join(f"; {name} stays whole: {reason}" for name, reason in list(left.items())[:1])
        raise BudgetError(f"{error}{reasons}") from error


def _rebuilt(run: Recursion, model: nn.Module, state: RBPState) -> nn.Module:
    """Returns the network as the state has it, on the CPU."""
    slim = shrink(model, run.graph, plan_of(run.graph, state.keep))
    slim.load_state_dict(state.model)
    return slim.cpu()


def _task(run: Recursion) -> str:
    """What decides a run besides its random numbers, for those that go on with it."""
    shared = {k: v for k, v in asdict(run.settings).items() if k not in ("epochs", "num_workers")}
    return json.dumps(
        {
            "data": run.dataset.name,
            "start": run.settings.task,
            "rbp": run.rbp.settings(),
            "budget": asdict(run.choices.budget),
            "allowed": [a.tolist() if len(a) < 4 else [int(a[0]), int(a[1]), int(a[-1])] for a in run.choices.allowed],
            "settings": shared,
        }
    )


def _keep(run: Recursion, state: RBPState) -> None:
    """Writes where the run stands; of several processes the first does."""
    if not first_process():
        return
    save_rbp_state(state_path(run.output), state)
    if len(state.shares):
        resume_path(layer_path(run.output, state.done)).unlink(missing_ok=True)
