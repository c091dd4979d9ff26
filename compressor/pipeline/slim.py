"""The road of `compress prune` for methods that remove channels for good.

    trace -> score -> select a plan within the budget -> fold constants -> shrink -> batch norm anew -> fine-tune

Methods that train before they score, or that prune step by step, have stages of their own before the plan (`planned`).
The plan goes into the checkpoint, which rebuilds the slim network by replaying it on the dense architecture.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compressor import checkpoint
from compressor.costs.macs import ModelCost, count_macs
from compressor.data import Dataset, Loader
from compressor.data.files import whole_file
from compressor.errors import CompressorError
from compressor.graph import trace
from compressor.methods.base import Method
from compressor.pipeline.method_settings import make_method
from compressor.pipeline.planned import Pruning, Wishes, forget_stages, make_plan, trains_before_cut
from compressor.pipeline.prune import FINE_TUNING, load_for_pruning, matching_data
from compressor.pipeline.speedup import MeasuredSpeedup, measure_speedup, require
from compressor.pipeline.teacher import Distillation, load_teacher
from compressor.pipeline.train import check_output, command_line, split_seed_of
from compressor.pipeline.unfolded import unfolded
from compressor.plan import PruningPlan, plan_to_json
from compressor.shrink import fold_constants, reestimate_batch_norm, shrink
from compressor.train import Progress, TrainSettings, evaluate, resume_path, train

__all__ = ["SlimNetwork", "Wishes", "slim"]

# Images on which a cut channel's mean is measured before it is folded into the layers that read it.
_FOLDED_IMAGES = 256
_BN_BATCHES = 50
_EPOCHS = 10  # of fine-tuning, where nobody says


@dataclass(frozen=True)
class SlimNetwork:
    """A slim checkpoint, how good it is and what it costs; accuracies 0 to 1.

    Attributes:
        path: The checkpoint.
        plan: What was kept.
        cost: Of the slim network.
        before: Of the network it was made from.
        val_before: Accuracy of that network.
        val_cut: Right after the cut, with batch norm measured anew.
        val_top1: After fine-tuning; chose the epoch.
        test_top1: Evaluated once, at the end.
        speedup: Measured on this machine.
        metric: What the accuracies are, where they are something else.
    """

    path: Path
    plan: PruningPlan
    cost: ModelCost
    before: ModelCost
    val_before: float
    val_cut: float
    val_top1: float
    test_top1: float
    speedup: MeasuredSpeedup
    metric: str = "accuracy"

    def summary(self) -> str:
        """Two lines for people."""
        return (
            f"{self.path}: val {self.metric} {self.val_top1:.2%} (before {self.val_before:.2%}, right after the cut "
            f"{self.val_cut:.2%}), test {self.metric} {self.test_top1:.2%}, {self.cost.macs / 1e6:.2f} M MACs "
            f"({self.before.macs / self.cost.macs:.2f}x fewer), {self.cost.parameters} parameters "
            f"({self.before.parameters / self.cost.parameters:.2f}x fewer)\n{self.speedup.summary()}"
        )


def slim(
    source: str | Path | checkpoint.CompressedCheckpoint,
    *,
    method: str,
    data: str | Dataset | None,
    wishes: Wishes,
    output: Path,
    epochs: int | None = None,
    resume: bool = False,
    seed: int = 0,
    settings: TrainSettings | None = None,
    method_settings: dict[str, Any] | None = None,
    distillation: Distillation | None = None,
    progress: Progress | None = None,
) -> SlimNetwork:
    """Removes channels from a trained network, fine-tunes it and writes its checkpoint.

    Args:
        source: A checkpoint or its path, dense or already slim.
        method: A method that scores channels, such as `l1`.
        data: A data set, or what `compressor.data.load` takes.
        wishes: Budget, limits, widths.
        output: The checkpoint to write; the plan lies beside it as `.plan.json`.
        epochs: Of fine-tuning; 0 leaves the network as it is after the cut, None takes 10.
        resume: Go on with an unfinished fine-tuning.
        seed: Order of images, augmentation, dropout.
        settings: Batch size, peak learning rate and so on of the fine-tuning.
        method_settings: Fields of the method.
        distillation: A network to imitate in the fine-tuning besides learning the labels.
        progress: Where to say how it goes.

    Raises:
        CompressorError: Something is missing or does not fit; the budget or the asked speed cannot be met. Nothing
            is written then.
    """
    progress, epochs = progress or Progress(), _EPOCHS if epochs is None else epochs
    scorer = make_method(method, method_settings or {})
    if data is None:
        raise CompressorError("pruning measures and trains the network, so it needs data: add --data, such as digits")
    check_output(output, source=source)
    saved = load_for_pruning(source, method=method)
    dataset = matching_data(data, saved, seed, distillation=distillation)
    # Where the data is answered by the teacher already, there is nothing to mix.
    teacher = load_teacher(distillation, saved) if dataset.answers is None else None
    saved = unfolded(saved, dataset, progress=progress)
    model = checkpoint.rebuild(saved)
    images = _images(dataset, _FOLDED_IMAGES)
    graph = trace(model, images[:2])
    settings = replace(settings or FINE_TUNING, seed=seed)
    if not resume and trains_before_cut(scorer, wishes):
        resume_path(output).unlink(missing_ok=True)
    planned = make_plan(
        Pruning(
            method=scorer,
            model=model,
            graph=graph,
            images=images,
            dataset=dataset,
            wishes=wishes,
            settings=replace(settings, task=json.dumps({"data": dataset.name, "method": method, **scorer.settings()})),
            output=output,
            resume=resume,
            progress=progress,
        )
    )
    plan = planned.plan
    val_before = evaluate(model, dataset, "val").top1
    before = count_macs(model, images[:2])
    dense = planned.model
    if not planned.silent:
        dense = fold_constants(dense, graph, plan, images) if wishes.fold_constants else dense
    cut = shrink(dense, graph, plan) if planned.slim is None else planned.slim
    if not planned.silent:
        loader = Loader(FINE_TUNING.batch_size, shuffle=True, seed=seed)
        cut = reestimate_batch_norm(cut, dataset.batches("train", loader), num_batches=_BN_BATCHES)
    cost = count_macs(cut, images[:2])
    val_cut = evaluate(cut, dataset, "val").top1
    progress.line(
        f"cut: {before.macs / 1e6:.2f} -> {cost.macs / 1e6:.2f} M MACs, val {dataset.task.name} {val_before:.2%} -> "
        f"{val_cut:.2%}"
    )
    speedup = measure_speedup(model, cut, images[:2])
    progress.line(speedup.summary())
    if wishes.require_speedup is not None:
        require(speedup, wishes.require_speedup, cost, dense_macs=before.macs, step=wishes.align.step)

    task = {"data": dataset.name, "plan": json.loads(plan_to_json(plan))}
    if distillation is not None:
        task["distillation"] = distillation.to_json()
    tuning = replace(settings, epochs=max(epochs, 1), task=json.dumps(task))
    if trains_before_cut(scorer, wishes):
        resume = resume and resume_path(output).is_file()  # else it was stopped before its fine-tuning began
    record: dict[str, Any] = {"command": command_line(), "data": dataset.name, "seed": seed}
    record["split_seed"] = split_seed_of(saved, seed)
    record["times"] = None if wishes.align.rates is None else wishes.align.rates.source
    val_top1 = val_cut
    if epochs:
        trained = train(
            cut,
            dataset,
            settings=tuning,
            method=planned.tuner,
            checkpoint_path=output,
            resume=resume,
            teacher=teacher,
            progress=progress,
        )
        val_top1 = trained.val_top1
        record["train"] = trained.to_json()
        record["distillation"] = task.get("distillation")
    test = evaluate(cut, dataset, "test").top1
    result = SlimNetwork(output, plan, cost, before, val_before, val_cut, val_top1, test, speedup, dataset.task.name)
    _write(result, cut, saved, scorer, record | {"method": method} | planned.record)
    resume_path(output).unlink(missing_ok=True)
    forget_stages(output)
    return result


def _images(dataset: Dataset, count: int) -> Tensor:
    """Training images without augmentation, for statistics of the network."""
    images, _ = next(iter(dataset.batches("train", Loader(count))))
    return images


def _write(
    result: SlimNetwork,
    model: nn.Module,
    source: checkpoint.CompressedCheckpoint,
    scorer: Method,
    about: dict[str, Any],
) -> None:
    steps = [] if source.plan is None else list(source.plan["steps"])
    text = plan_to_json(result.plan)
    record = {
        **about,
        "settings": scorer.settings(),
        "before": {"val_top1": result.val_before, "macs": result.before.macs, "record": source.record},
        "val_after_cut": result.val_cut,
        "val_top1": result.val_top1,
        "test_top1": result.test_top1,
        "macs": result.cost.macs,
        "parameters": result.cost.parameters,
        "speedup": result.speedup.ratio,
        "metric": result.metric,
    }
    slim_checkpoint = replace(
        source, state=model.state_dict(), plan={"steps": [*steps, json.loads(text)]}, record=record
    )
    checkpoint.save(slim_checkpoint, result.path)
    plan_file = result.path.with_suffix(".plan.json")
    with whole_file(plan_file) as file:
        file.write(f"{text}\n".encode())
