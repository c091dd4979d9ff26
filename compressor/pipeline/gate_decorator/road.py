"""The road of Gate Decorator: Tock, then Ticks with a Tock after every few, until the budget is met.

    add gates -> Tock -> (Tick x T -> Tock) ... -> budget -> fold the gates away -> a plain network and its plan

Each stage is one run of the training loop. Its end is written beside the output, a Tock's epochs too; a Tick begins
again, so that a killed run goes on to the same bits. Which filters go is decided on training batches by the gates'
scores; the validation split only watches, the test split is not touched.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compressor.costs.widths import count_units
from compressor.data import Loader
from compressor.methods.gate_decorator_convert import fold_gates
from compressor.pipeline.gate_decorator.log import write_stages, write_tensorboard
from compressor.pipeline.gate_decorator.run import TickTock, make_stage, summary, task_of, ticks_to_come
from compressor.pipeline.gate_decorator.stage import PruneAtEnd
from compressor.pipeline.gate_decorator.state import GateState, load_gate_state, save_gate_state, state_path, tock_path
from compressor.pipeline.gate_decorator.width import held_units, narrowed, narrowed_gates, write_back
from compressor.pipeline.stages import SEED_STRIDE, StageProgress, first_process, plan_of, weights_of
from compressor.plan import PruningPlan
from compressor.select import Choices, check_reachable
from compressor.train import TrainSettings, resume_path, train
from compressor.train.loop import steps_per_epoch
from compressor.train.precision import choose_precision

__all__ = ["TickTock", "forget", "tick_tock"]


def tick_tock(run: TickTock, model: nn.Module, *, resume: bool = False) -> tuple[nn.Module, PruningPlan]:
    """Returns the network with its gates folded away, cut channels silent but still there, and the plan to shrink it.

    Args:
        run: what to do.
        model: the plain network, trained; not changed.
        resume: go on with what an earlier run left beside the output.

    Raises:
        MethodError: no layer can carry a gate, or a setting is not allowed.
        BudgetError: the budget cannot be met.
        CheckpointError: there is nothing to resume, or it belongs to another run.
        CompressorError: training diverged.
    """
    run.gates.check()
    gated = run.gates.attach_to(model, run.graph)
    run = replace(run, choices=_gated_only(run))
    check_reachable(run.graph, run.choices)
    task = task_of(run, model)
    state = _resumed(run, gated, task) if resume else _begun(run, gated, task)
    while not state.reached:
        tocks_due = int(run.gates.first_tock) + state.done("tick") // run.gates.ticks_per_tock
        if run.gates.tock_epochs and state.done("tock") < tocks_due:
            state = _tock(run, gated, state, resume=resume)
        else:
            state = _tick(run, gated, state)
        _keep(run, state)
        run.progress.line(summary(run, state))
    return fold_gates(gated).cpu(), plan_of(run.graph, state.keep)


def forget(output: Path) -> None:
    """Removes what a run keeps beside its output to go on."""
    state_path(output).unlink(missing_ok=True)
    for path in output.parent.glob(f"{output.name}.tock*.resume"):
        path.unlink(missing_ok=True)


def _begun(run: TickTock, model: nn.Module, task: str) -> GateState:
    if first_process():
        forget(run.output)
    batches = run.dataset.batches("train", Loader(run.settings.batch_size, shuffle=True))
    precision = choose_precision(model, batches, loss=run.dataset.task.loss, wanted=run.settings.precision)
    run.progress.line(f"precision: {precision.name} ({precision.reason})")
    keep = np.ones(run.graph.num_units, dtype=np.bool_)
    counts = count_units(run.graph, keep)
    reached = run.choices.cost(counts) <= run.choices.target
    state = GateState(task, precision.name, keep, reached, (), weights_of(model))
    _keep(run, state)
    left = ticks_to_come(run, state)
    epochs = left + run.gates.tock_epochs * (int(run.gates.first_tock) + left // run.gates.ticks_per_tock)
    part = steps_per_epoch(run.dataset, _settings(run, state, epoch_images=run.gates.tick_images))
    run.progress.line(
        f"{int(run.gates.filters().sum())} filters; about {left} ticks of {part} steps, {epochs - left} epochs of tocks"
    )
    return state


def _resumed(run: TickTock, model: nn.Module, task: str) -> GateState:
    """Changes `model` to where the run stands."""
    state = load_gate_state(state_path(run.output), task)
    model.load_state_dict(state.model)
    run.progress.line(f"goes on after {state.done('tick')} ticks and {state.done('tock')} tocks")
    return state


def _tock(run: TickTock, model: nn.Module, state: GateState, *, resume: bool) -> GateState:
    """Trains everything, gates under the L1 term."""
    start, gates, number = time.perf_counter(), run.gates, state.done("tock") + 1
    narrow = _narrow(run, model, state)
    gates.begin_tock(narrow)
    own = tock_path(run.output, number)
    record = train(
        narrow,
        run.dataset,
        settings=_settings(
            run,
            state,
            epochs=gates.tock_epochs,
            peak_lr=gates.tock_lr_max,
            lowest_lr=gates.tock_lr_min,
            schedule="triangular",
        ),
        method=gates,
        checkpoint_path=own,
        resume=resume and resume_path(own).is_file(),
        progress=StageProgress(run.progress, f"tock {number}, "),
    )
    _write_back(run, model, narrow, state)
    stage = make_stage(run, state, "tock", record, epochs=float(gates.tock_epochs), start=start)
    return replace(state, model=weights_of(model), stages=(*state.stages, stage))


def _tick(run: TickTock, model: nn.Module, state: GateState) -> GateState:
    """Trains gates and the last layer while scores accumulate; with the last batch the least important filters go."""
    start, gates = time.perf_counter(), run.gates
    narrow = _narrow(run, model, state)
    gates.begin_tick(narrow)
    settings = _settings(
        run, state, epochs=1, epoch_images=gates.tick_images, peak_lr=gates.tick_lr, schedule="constant"
    )
    steps = steps_per_epoch(run.dataset, settings)
    ending = PruneAtEnd(run, state.keep, steps)
    record = train(narrow, run.dataset, settings=settings, method=ending, progress=StageProgress(run.progress, None))
    assert ending.pruned is not None
    _write_back(run, model, narrow, state)
    state = replace(state, keep=ending.pruned.keep, reached=ending.pruned.reached, model=weights_of(model))
    whole = run.dataset.num_batches("train", Loader(settings.batch_size, shuffle=True))
    stage = make_stage(run, state, "tick", record, epochs=steps / whole, start=start)
    return replace(state, stages=(*state.stages, stage))


def _narrow(run: TickTock, model: nn.Module, state: GateState) -> nn.Module:
    """Returns a copy without most of what is masked, and turns the method to it."""
    held = held_units(run.graph, state.keep)
    run.gates.turn_to(narrowed_gates(run.gates.gates, held))
    return narrowed(model, run.graph, run.gates.gates, held)


def _write_back(run: TickTock, model: nn.Module, narrow: nn.Module, state: GateState) -> None:
    held = held_units(run.graph, state.keep)
    write_back(model, narrow, graph=run.graph, gates=run.gates.gates, held=held)


def _gated_only(run: TickTock) -> Choices:
    """Leaves groups whole that no gate scores."""
    filters = run.gates.filters()
    scored = [bool(filters[g.start : g.start + g.size].any()) for g in run.graph.groups]
    allowed = [a if s else a[-1:] for a, s in zip(run.choices.allowed, scored, strict=True)]
    branches = [branch for branch in run.choices.branches if all(scored[g] for g in branch)]
    return replace(run.choices, allowed=allowed, branches=branches)


def _settings(run: TickTock, state: GateState, **own: Any) -> TrainSettings:  # Any: fields of TrainSettings
    """Settings of the next stage."""
    stage = len(state.stages) + 1
    shared = replace(
        run.settings,
        precision=state.precision,
        keep="last",
        settle_epochs=0,
        epoch_images=0,
        momentum=run.gates.momentum,
        nesterov=False,
        task=f"stage {stage}: {state.task}",
    )
    return replace(shared, seed=run.settings.seed + stage * SEED_STRIDE, **own)


def _keep(run: TickTock, state: GateState) -> None:
    """Writes where the run stands."""
    if not first_process():
        return
    save_gate_state(state_path(run.output), state)
    resume_path(tock_path(run.output, state.done("tock"))).unlink(missing_ok=True)
    if state.stages:
        write_stages(state.stages, run.output.with_suffix(".csv"))
        if run.tensorboard is not None:
            write_tensorboard(state.stages[-1:], run.tensorboard, first_step=len(state.stages))
