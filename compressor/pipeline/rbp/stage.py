"""One stage of RBP (reconstruction): training with noise, and what is cut after it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from torch import nn

from compressor.costs.widths import Counts
from compressor.data import Dataset, Loader
from compressor.graph import ChannelGraph
from compressor.methods.rbp import RBP
from compressor.methods.rbp_layer import fold_noise
from compressor.methods.rbp_places import ChainStep
from compressor.methods.rbp_steering import Steering
from compressor.pipeline.rbp.state import layer_path
from compressor.pipeline.stages import SEED_STRIDE, StageProgress
from compressor.plan import PruningPlan
from compressor.select import Choices
from compressor.shrink import reestimate_batch_norm, shrink
from compressor.train import Progress, TrainRecord, TrainSettings, resume_path, train
from compressor.train.loop import steps_per_epoch

__all__ = ["Recursion", "Stage", "cut_layer", "train_stage"]


@dataclass(frozen=True, eq=False)
class Recursion:
    """What stays the same over a run.

    Attributes:
        rbp: the method.
        graph: channel graph of the network before the run.
        choices: counts that groups may have, and the cost to reach.
        dataset: what is trained and validated on.
        settings: batch size, momentum, weight decay and so on of every layer; rates and epochs are the method's.
        output: names the files of the run.
        progress: where to say how it goes.
    """

    rbp: RBP
    graph: ChannelGraph
    choices: Choices
    dataset: Dataset
    settings: TrainSettings
    output: Path
    progress: Progress = Progress()  # noqa: RUF009  # says nothing, holds nothing


@dataclass(frozen=True, eq=False)
class Stage:
    """What one stage does.

    Attributes:
        number: of the layer, from 1; 0 shares the budget out.
        text: before its own lines.
        steps: of the chain; these have noise.
        counts: units of each group of the network before the run that are still there.
        goal: cost to which the expected units are steered.
        epochs: of training.
        precision: what it computes in.
        task: what decides the run, as text.
        resume: go on with what is beside the output.
    """

    number: int
    text: str
    steps: tuple[ChainStep, ...]
    counts: Counts
    goal: float
    epochs: int
    precision: Literal["32", "bf16"]
    task: str
    resume: bool


def train_stage(run: Recursion, model: nn.Module, stage: Stage) -> tuple[nn.Module, TrainRecord]:
    """Returns a copy with noise, trained: weights and rates, lam steered to the goal unless it is set."""
    seed = _seed(run, stage.number)
    noisy = run.rbp.attach_to(model, stage.steps, seed=seed)
    settings = replace(
        run.settings,
        epochs=stage.epochs,
        epoch_images=0,
        peak_lr=run.rbp.layer_lr,
        schedule="constant",
        precision=stage.precision,
        keep="last",
        settle_epochs=0,
        seed=seed,
        task=f"layer {stage.number}: {stage.task}",
    )
    places = {group.name: place for place, group in enumerate(run.graph.groups)}

    def cost(kept: dict[str, float]) -> float:
        counts = stage.counts.astype(np.float64)
        for name, units in kept.items():
            counts[places[name]] = units
        return run.choices.cost(cast(Counts, counts))  # linear in each count, so an expected one will do

    run.rbp.steer(
        Steering(
            steps=steps_per_epoch(run.dataset, settings) * stage.epochs,
            samples=_samples(run),
            cost=cost,
            start=cost({}),
            none=cost({step.group: 0.0 for step in stage.steps}),
            goal=stage.goal,
        )
    )
    own = layer_path(run.output, stage.number)
    record = train(
        noisy,
        run.dataset,
        settings=settings,
        method=run.rbp,
        checkpoint_path=own,
        resume=stage.resume and resume_path(own).is_file(),
        progress=StageProgress(run.progress, stage.text),
    )
    return noisy, record


def cut_layer(
    run: Recursion, noisy: nn.Module, before: nn.Module, graph: ChannelGraph, *, plan: PruningPlan, number: int
) -> nn.Module:
    """Returns the network without a layer's noise and redundant channels, batch norm measured anew.

    Args:
        run: what to do.
        noisy: the network with trained noise.
        before: the plain one that got the noise.
        graph: its channel graph.
        plan: what stays of the layer.
        number: of the layer.
    """
    plain = fold_noise(noisy)
    trained = {name: parameter.requires_grad for name, parameter in before.named_parameters()}
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(trained[name])
    slim = shrink(plain, graph, plan)
    loader = Loader(run.settings.batch_size, shuffle=True, seed=_seed(run, number))
    return reestimate_batch_norm(slim, run.dataset.batches("train", loader), num_batches=run.rbp.bn_batches)


def _samples(run: Recursion) -> int:
    """Returns N, the images of a walk over the train split."""
    loader = Loader(run.settings.batch_size, shuffle=True)
    inputs, _ = next(iter(run.dataset.batches("train", loader)))
    return run.dataset.num_batches("train", loader) * len(inputs)


def _seed(run: Recursion, number: int) -> int:
    """Of a stage; the fine-tuning has the run's own."""
    return run.settings.seed + (number + 1) * SEED_STRIDE
