"""`compress prune`: a trained network becomes a slimmer one."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from compressor.cli.options import DATA_HELP, Precision, parse_floats, parse_numbers, parse_settings, parse_size

__all__ = ["prune"]


def prune(
    model: Annotated[Path, typer.Argument(help="A trained checkpoint (.pt), dense or slim, or an ONNX file.")],
    method: Annotated[str, typer.Option(help="A name of `compress list methods`.")],
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    density: Annotated[
        float | None, typer.Option(help="fbs: part of each layer's channels that is computed, in (0, 1].")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Other methods: macs=0.5x, params=0.4x, density=0.5, latency=0.5x, macs=60M, latency=3ms; within 2 %."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write.")] = Path("slim.pt"),
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Of the whole schedule, or of the fine-tuning; 0 only cuts.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A method's numbers: a name of `compress list recipes`, or a .toml file; options go before it."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per step; 256 where no recipe says.", show_default=False)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(min=0.0, help="Peak learning rate of the fine-tuning; 0.05 where no recipe says."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A number of the method, or training.NAME of the recipe; may be repeated.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Cut only these layers, such as 'layer4.*'.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Leave these layers whole.")] = None,
    keep_min: Annotated[
        list[str] | None,
        typer.Option(metavar="[PATTERN=]N", help="Least share (below 1) or number of channels kept; may be repeated."),
    ] = None,
    align: Annotated[
        str,
        typer.Option(
            help="Widths and times: auto (this machine, see `compress profile`; finer where the budget needs it), off, "
            "a number, or a target's name."
        ),
    ] = "auto",
    remove_branches: Annotated[
        bool, typer.Option("--remove-branches", help="A residual branch may be cut to nothing.")
    ] = False,
    fold_constants: Annotated[
        bool, typer.Option("--fold-constants", help="Add the mean of each cut channel to the layers that read it.")
    ] = False,
    plan: Annotated[Path | None, typer.Option(help="Replay a saved .plan.json instead of --budget.")] = None,
    require_speedup: Annotated[
        float | None, typer.Option(min=0.0, help="Fail unless it is this many times as fast as before, here.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="gate-decorator: event files of every Tick; needs tensorboard.")
    ] = None,
    distill: Annotated[
        Path | None, typer.Option(help="A checkpoint, usually the dense one, to imitate besides learning the labels.")
    ] = None,
    distill_weight: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Part of the loss that comes from --distill.")
    ] = 0.7,
    distill_temperature: Annotated[float, typer.Option(help="Of both softmaxes, above 0.")] = 4.0,
    mean: Annotated[
        str | None,
        typer.Option(metavar="M,M,M", help="ONNX file: normalisation in training, per channel on the 0-1 scale."),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="S,S,S", help="The same.")] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="ONNX file: size of the images, where it leaves that open.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of images, augmentation and start values.")] = 0,
    precision: Annotated[Precision, typer.Option(help="auto measures at the start which is faster.")] = Precision.AUTO,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Prune a trained network and fine-tune it; its epoch is chosen on a validation split."""
    # Heavy (torch); commands that need none must start without it.
    from compressor import methods, recipes
    from compressor.methods.fbs import FBS
    from compressor.pipeline.onnx_file import Inputs, prunable
    from compressor.pipeline.prune import FINE_TUNING
    from compressor.pipeline.prune import prune as run_fbs
    from compressor.pipeline.slim import Wishes
    from compressor.pipeline.slim import slim as run_slim
    from compressor.pipeline.steps import alignment
    from compressor.pipeline.teacher import Distillation
    from compressor.select import Limits, parse_budget
    from compressor.train import progress_on
    from compressor.train.memory import keep_freed_memory

    dynamic = issubclass(methods.get(method), FBS)
    _refuse_mixture(dynamic, method, budget, density, plan, epochs)
    keep_freed_memory()
    changes = parse_settings(setting or [])
    chosen = recipes.chosen(method, recipe, changes)
    given: dict[str, Any] = {"batch_size": batch_size, "peak_lr": lr}  # Any: fields of TrainSettings
    given["precision"] = None if precision is Precision.AUTO else precision.value
    settings = FINE_TUNING if chosen is None else chosen.train_settings()
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    if epochs is None and chosen is not None and "epochs" in chosen.training:
        epochs = settings.epochs
    method_settings = changes if chosen is None else dict(chosen.settings)
    distillation = None if distill is None else Distillation(distill, distill_weight, distill_temperature)
    try:
        wanted = None if budget is None else parse_budget(budget)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    aligned = None if dynamic else alignment(align)
    inputs = Inputs(
        parse_floats("--mean", mean),
        parse_floats("--std", std),
        None if image_size is None else parse_size(image_size),
    )
    source, dataset = prunable(model, data=data, inputs=inputs, output=output, seed=seed)
    if aligned is None:
        pruned = run_fbs(
            source,
            method=method,
            data=dataset,
            density=density,
            output=output,
            epochs=epochs,
            resume=resume,
            seed=seed,
            settings=settings,
            method_settings=method_settings,
            distillation=distillation,
            progress=progress_on(),
        )
        typer.echo(pruned.summary())
        return
    slimmed = run_slim(
        source,
        method=method,
        data=dataset,
        wishes=Wishes(
            budget=wanted,
            limits=Limits(tuple(include or ()), tuple(exclude or ()), parse_numbers(keep_min or []), remove_branches),
            align=aligned,
            plan=plan,
            fold_constants=fold_constants,
            require_speedup=require_speedup,
            tensorboard=tensorboard,
        ),
        output=output,
        epochs=epochs,
        resume=resume,
        seed=seed,
        settings=settings,
        method_settings=method_settings,
        distillation=distillation,
        progress=progress_on(),
    )
    typer.echo(slimmed.summary())


def _refuse_mixture(
    dynamic: bool, method: str, budget: str | None, density: float | None, plan: Path | None, epochs: int | None
) -> None:
    """Options of the one kind of method are not ignored with the other."""
    if dynamic and (budget is not None or plan is not None):
        raise typer.BadParameter(f"{method} keeps all channels and chooses per image: give --density, not a budget")
    if dynamic and epochs == 0:
        raise typer.BadParameter(f"{method} has to train its predictors: give --epochs 1 or more")
    if not dynamic and density is not None:
        raise typer.BadParameter(f"{method} removes channels for good: give --budget, such as density={density:g}")
    if budget is not None and plan is not None:
        raise typer.BadParameter("--plan is what a budget led to: give one of --budget and --plan")
