"""One Tick-Tock run as data: what stays the same, what tells it from others, and what its stages came to."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from compressor.costs.widths import count_units, planned_macs, planned_params, width_costs
from compressor.data import Dataset
from compressor.graph import ChannelGraph
from compressor.methods.gate_decorator import GateDecorator
from compressor.pipeline.gate_decorator.log import Stage, clock, seconds_left, ticks_left
from compressor.pipeline.gate_decorator.state import GateState
from compressor.select import Choices
from compressor.train import Progress, TrainRecord, TrainSettings

__all__ = ["TickTock", "fingerprint", "make_stage", "summary", "task_of", "ticks_to_come"]


@dataclass(frozen=True, eq=False)
class TickTock:
    """What stays the same over a run.

    Attributes:
        gates: the method.
        graph: channel graph of the plain network.
        choices: counts that groups may have, and the cost to reach.
        dataset: what is trained and validated on.
        settings: batch size, momentum, weight decay and so on of every stage; rates and epochs are the method's.
        output: names the files of the run.
        tensorboard: folder for event files, or None.
        progress: where to say how it goes.
    """

    gates: GateDecorator
    graph: ChannelGraph
    choices: Choices
    dataset: Dataset
    settings: TrainSettings
    output: Path
    tensorboard: Path | None = None
    progress: Progress = Progress()  # noqa: RUF009  # says nothing, holds nothing


def make_stage(
    run: TickTock, state: GateState, kind: Literal["tick", "tock"], record: TrainRecord, *, epochs: float, start: float
) -> Stage:
    """Returns what a stage that is just done came to.

    Args:
        run: what it is part of.
        state: after its pruning, without the stage itself.
        kind: which of the two it was.
        record: what its training said.
        epochs: walks over the train split that it took.
        start: `time.perf_counter` at its begin.
    """
    last = record.epochs[-1]
    costs, counts = width_costs(run.graph), count_units(run.graph, state.keep)
    dense = count_units(run.graph, np.ones_like(state.keep))
    macs = planned_macs(costs, counts)
    return Stage(
        kind=kind,
        number=state.done(kind) + 1,
        epochs=epochs + (state.stages[-1].epochs if state.stages else 0.0),
        macs=macs,
        macs_fraction=macs / planned_macs(costs, dense),
        parameters=round(planned_params(costs, counts)),
        filters=int(run.gates.filters()[torch.from_numpy(state.keep)].sum()),
        train_loss=last.train_loss,
        val_loss=last.val_loss,
        val_top1=last.val_top1,
        seconds=time.perf_counter() - start,
    )


def ticks_to_come(run: TickTock, state: GateState) -> int:
    """Returns how many Ticks are to come, as far as one can tell."""
    if state.reached:
        return 0
    cost, counts = run.choices.cost, count_units(run.graph, state.keep)
    dense = cost(count_units(run.graph, np.ones_like(state.keep)))
    done, fraction = state.done("tick"), run.gates.prune_fraction
    return ticks_left(cost(counts), run.choices.target, dense=dense, done=done, prune_fraction=fraction)


def summary(run: TickTock, state: GateState) -> str:
    """Returns one line for people: what the last stage came to, and the time that is left."""
    stage, ticks = state.stages[-1], ticks_to_come(run, state)
    left = "the budget is met"
    if not state.reached:
        tocks = 0
        if run.gates.tock_epochs:
            # A Tock that would follow the last Tick is left out.
            due = int(run.gates.first_tock) + (state.done("tick") + ticks - 1) // run.gates.ticks_per_tock
            tocks = max(0, due - state.done("tock"))
        seconds = seconds_left(state.stages, ticks=ticks, tocks=tocks)
        left = f"about {ticks} tick{'' if ticks == 1 else 's'}" + (f", {clock(seconds)}" if seconds else "") + " left"
    return (
        f"{stage.kind} {stage.number}: {stage.macs_fraction:.2%} of the MACs, {stage.filters} filters, train loss "
        f"{stage.train_loss:.4f}, val {run.dataset.task.name} {stage.val_top1:.2%}, {stage.seconds:.1f} s; {left}"
    )


def task_of(run: TickTock, model: nn.Module) -> str:
    """Returns what decides a run, as text: it goes on only with the same."""
    return json.dumps(
        {
            "data": run.dataset.name,
            "start": fingerprint(model),
            "gates": run.gates.settings(),
            "budget": asdict(run.choices.budget),
            "least": [int(a[0]) for a in run.choices.allowed],
            "step": run.choices.step,
            "branches": run.choices.branches,
            "settings": {
                name: getattr(run.settings, name)
                for name in ("batch_size", "weight_decay", "label_smoothing", "clip_norm", "precision", "seed")
            },
        }
    )


def fingerprint(model: nn.Module) -> str:
    """Returns a short text that differs where any weight does."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
