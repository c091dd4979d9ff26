"""What a method leaves to be cut: a network and a plan, after whatever training the method does before it decides."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from compressor.costs.latency import latency_of
from compressor.costs.operations import operations
from compressor.data import Dataset, Loader
from compressor.errors import BudgetError, CompressorError
from compressor.graph import ChannelGraph
from compressor.methods.base import Method
from compressor.methods.gate_decorator import GateDecorator
from compressor.methods.rbp import RBP
from compressor.methods.structured import Structured
from compressor.pipeline import rbp, structured
from compressor.pipeline.gate_decorator import TickTock, forget, tick_tock
from compressor.pipeline.gate_decorator.log import check_tensorboard
from compressor.pipeline.steps import Alignment
from compressor.plan import PruningPlan, check_plan, plan_from_json
from compressor.select import Budget, Choices, Clock, Limits, check_reachable, find_choices, select
from compressor.shrink import reestimate_batch_norm
from compressor.train import Progress, TrainSettings, resume_path, train

__all__ = ["Planned", "Pruning", "Wishes", "forget_stages", "make_plan", "trains_before_cut"]

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Wishes:
    """What the user asks of a plan.

    Attributes:
        budget: What to reach; None where `plan` is given.
        limits: Layers to leave alone, least widths, whether branches may go.
        align: What widths should be multiples of, and times to choose them by.
        plan: A saved plan's file to replay instead of selecting one.
        fold_constants: Add the mean of each cut channel to the layers that read it.
        require_speedup: Least measured speed against dense; None only reports it.
        tensorboard: Folder for event files of a method that prunes step by step; None writes none.
    """

    budget: Budget | None
    limits: Limits = field(default_factory=Limits)
    align: Alignment = field(default_factory=Alignment)
    plan: Path | None = None
    fold_constants: bool = False
    require_speedup: float | None = None
    tensorboard: Path | None = None


@dataclass(frozen=True, eq=False)
class Pruning:
    """All that a plan is made from.

    Attributes:
        method: Scores channels, after training with its hooks where it asks for that.
        model: The network to be cut; not changed.
        graph: Its channel graph.
        images: Training images, not augmented.
        dataset: To train on.
        wishes: What the user asks for.
        settings: Batch size, rates and so on of training.
        output: The checkpoint to come; states of unfinished stages lie beside it.
        resume: Go on with an unfinished stage.
        progress: Where to say how it goes.
    """

    method: Method
    model: nn.Module
    graph: ChannelGraph
    images: Tensor
    dataset: Dataset
    wishes: Wishes
    settings: TrainSettings
    output: Path
    resume: bool
    progress: Progress


@dataclass(frozen=True, eq=False)
class Planned:
    """What is to be cut.

    Attributes:
        model: The network with the weights it is cut with.
        plan: What stays.
        silent: What the plan cuts puts out 0 already: cutting it changes no output, and no statistics.
        slim: The network after the cut, where the method has removed the channels itself; then `model` is as it was.
        tuner: Takes part in the fine-tuning; None where nothing of the method is left in the network.
        record: What else the checkpoint's record says, JSON values.
    """

    model: nn.Module
    plan: PruningPlan
    silent: bool = False
    slim: nn.Module | None = None
    tuner: Method | None = None
    record: dict[str, Any] = field(default_factory=dict)


def trains_before_cut(method: Method, wishes: Wishes) -> bool:
    """Says whether a method trains before it decides, so that a stopped run may not have got to its fine-tuning."""
    if isinstance(method, Structured):
        return True
    return wishes.plan is None and (isinstance(method, GateDecorator | RBP) or method.training_epochs() > 0)


def make_plan(work: Pruning) -> Planned:
    """Returns a saved plan that fits, or a new one within the budget.

    Raises:
        CompressorError: No budget is given; it cannot be met; the method cannot be applied; or a pattern of the
            limits names no layer.
    """
    wishes, method = work.wishes, work.method
    if isinstance(method, Structured):
        return _by_particles(work, method)
    if wishes.plan is not None:
        plan = plan_from_json(wishes.plan.read_text(encoding="utf-8"))
        check_plan(plan, work.graph, removable=[name for branch in work.graph.branches for name in branch.groups])
        return Planned(work.model, plan)
    if wishes.budget is None:
        raise CompressorError("a budget is missing: add --budget, for example --budget macs=0.5x")
    try:
        if isinstance(method, GateDecorator):
            return _by_gates(work, method, wishes.budget)
        if wishes.tensorboard is not None:
            raise CompressorError("only gate-decorator prunes step by step and has something to show in --tensorboard")
        if isinstance(method, RBP):
            return _layer_by_layer(work, method, wishes.budget)
        clock = _clock(work)
        model = work.model
        if method.training_epochs():
            _check_reachable(work, wishes.budget, clock)
            model = _trained(work)
        method.attach(model, work.images[:2])
        scores = method.scores(model).values
        plan = _selected(work, scores, wishes.budget, clock)
        if clock is not None:
            work.progress.line(_prediction(work.graph, plan, clock))
    except ValueError as error:
        raise CompressorError(str(error)) from error
    return Planned(model, plan)


def _clock(work: Pruning) -> Clock | None:
    """Predicts latency of the network's widths by the rates that the user goes by."""
    rates = work.wishes.align.rates
    if rates is None:
        return None
    table = operations(work.model, work.graph, work.images[:2])
    return Clock(latency_of(table, rates), rates.source)


def _prediction(graph: ChannelGraph, plan: PruningPlan, clock: Clock) -> str:
    full = np.array([group.size for group in graph.groups], dtype=np.int64)
    kept = np.array([len(plan.keep.get(group.name, range(group.size))) for group in graph.groups], dtype=np.int64)
    before, after = clock.latency_ms(full), clock.latency_ms(kept)
    return f"widths chosen by the times of {clock.source}: predicted {before:.2f} -> {after:.2f} ms an image"


def forget_stages(output: Path) -> None:
    """Removes the states that stages before the fine-tuning have left beside an output."""
    forget(output)
    rbp.forget(output)
    structured.forget(output)
    resume_path(_sparse_path(output)).unlink(missing_ok=True)


def _by_gates(work: Pruning, method: GateDecorator, budget: Budget) -> Planned:
    wishes = work.wishes
    if wishes.tensorboard is not None:
        check_tensorboard()
    run = TickTock(
        gates=method,
        graph=work.graph,
        choices=_choices(work, budget),
        dataset=work.dataset,
        settings=work.settings,
        output=work.output,
        tensorboard=wishes.tensorboard,
        progress=work.progress,
    )
    model, plan = tick_tock(run, work.model, resume=work.resume)
    # Nothing has trained since the last Tick pruned. Before the cut, not after: what a removed branch leaves behind is
    # a constant that its last batch norm's statistics decide.
    batches = work.dataset.batches("train", Loader(work.settings.batch_size, shuffle=True, seed=work.settings.seed))
    return Planned(reestimate_batch_norm(model, batches), plan, silent=True)


def _layer_by_layer(work: Pruning, method: RBP, budget: Budget) -> Planned:
    wishes = work.wishes
    if wishes.limits.remove_branches:
        raise CompressorError("RBP (reconstruction) keeps channels in every layer: leave --remove-branches out")
    if wishes.fold_constants:
        raise CompressorError("RBP (reconstruction) learns to do without what it cuts: leave --fold-constants out")
    run = rbp.Recursion(
        rbp=method,
        graph=work.graph,
        choices=_choices(work, budget),
        dataset=work.dataset,
        settings=work.settings,
        output=work.output,
        progress=work.progress,
    )
    slim, plan = rbp.recurse(run, work.model, resume=work.resume)
    return Planned(work.model, plan, silent=True, slim=slim)


def _by_particles(work: Pruning, method: Structured) -> Planned:
    """Channels within a budget or by a plan, kernels and strides by the method's settings, or all of them."""
    wishes, graph, first, counts = work.wishes, work.graph, PruningPlan(), dict[str, int]()
    if wishes.tensorboard is not None:
        raise CompressorError("only gate-decorator prunes step by step and has something to show in --tensorboard")
    if wishes.limits.remove_branches or wishes.fold_constants:
        raise CompressorError("structured finds masks of what stays: leave --remove-branches and --fold-constants out")
    if wishes.plan is not None:
        first = plan_from_json(wishes.plan.read_text(encoding="utf-8"))
        check_plan(first, graph)
    elif wishes.budget is not None:
        # Ranks inside a group as scores: every group loses the same part, as far as widths and limits allow.
        ranks = {g.name: (torch.arange(g.size) + 0.5) / g.size for g in graph.groups}
        try:
            plan = _selected(work, ranks, wishes.budget, _clock(work))
        except ValueError as error:
            raise CompressorError(str(error)) from error
        counts = {name: len(kept) for name, kept in plan.keep.items()}
    elif method.kernel_density == 1 and method.stride == 1:
        raise CompressorError(
            "nothing is to be pruned: add --budget, such as macs=0.5x, for channels, --set kernel_density=0.5 for "
            "kernels, or --set stride=2 for positions inside kernels"
        )
    wanted = structured.Searches(
        method=method,
        graph=graph,
        counts=counts,
        plan=first,
        limits=wishes.limits,
        dataset=work.dataset,
        settings=work.settings,
        output=work.output,
        progress=work.progress,
    )
    slim, plan, record = structured.search_all(wanted, work.model, resume=work.resume)
    tuner = structured.keep_zeros(method, slim)
    return Planned(work.model, plan, silent=method.layer_epochs > 0, slim=slim, tuner=tuner, record=record)


def _choices(work: Pruning, budget: Budget) -> Choices:
    """The widths that a method which prunes step by step may end with."""
    method = work.method
    assert isinstance(method, GateDecorator | RBP)
    clock = _clock(work) if budget.kind == "latency" else None
    steps = method.steps(work.model, work.graph)[0] if isinstance(method, RBP) else ()

    def widths(step: int) -> Choices:
        limits = work.wishes.limits
        found = find_choices(work.graph, budget=budget, limits=limits, step=step, min_keep=method.min_keep, clock=clock)
        return rbp.open_choices(work.graph, found, [step.group for step in steps]) if steps else found

    def reachable(step: int) -> Choices:
        choices = widths(step)
        check_reachable(work.graph, choices)
        return choices

    try:
        return _as_fine_as_needed(work, reachable)
    except BudgetError:
        return widths(1 if work.wishes.align.finer else work.wishes.align.step)  # refused there, with the reasons


def _check_reachable(work: Pruning, budget: Budget, clock: Clock | None) -> None:
    """Raises BudgetError where no widths that the user allows meet the budget: known before anything is trained."""
    align = work.wishes.align
    step = 1 if align.finer else align.step
    check_reachable(
        work.graph, find_choices(work.graph, budget=budget, limits=work.wishes.limits, step=step, clock=clock)
    )


def _selected(work: Pruning, scores: Mapping[str, Tensor], budget: Budget, clock: Clock | None) -> PruningPlan:
    return _as_fine_as_needed(
        work,
        lambda step: select(work.graph, scores, budget=budget, limits=work.wishes.limits, step=step, clock=clock),
    )


def _as_fine_as_needed(work: Pruning, attempt: Callable[[int], _Result]) -> _Result:
    """Returns attempt(step), with the first step from the user's on that does not keep the budget out of reach.

    Steps finer than the user's are taken where that one was left to the machine.
    """
    align = work.wishes.align
    step = align.step
    while True:
        try:
            result = attempt(step)
        except BudgetError:
            if step == 1 or not align.finer:
                raise
            step //= 2
            continue
        if step < align.step:
            widths = f"multiples of {step}" if step > 1 else "any"
            work.progress.line(f"widths: {widths}; multiples of {align.step}, best here, cannot meet the budget")
        return result


def _trained(work: Pruning) -> nn.Module:
    """Returns a copy of the network after the training that the method asks for, under its hooks."""
    model = work.method.attach(copy.deepcopy(work.model), work.images[:2])
    settings = replace(work.settings, epochs=work.method.training_epochs(), keep="last", task=work.settings.task)
    train(
        model,
        work.dataset,
        settings=settings,
        method=work.method,
        checkpoint_path=_sparse_path(work.output),
        resume=work.resume,
        progress=work.progress,
    )
    return model.cpu()


def _sparse_path(output: Path) -> Path:
    """The name that the training before the cut keeps its state under."""
    return output.with_name(f"{output.name}.sparse")
