"""`compress prune`: a trained network becomes a slimmer one."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import DATA_HELP, Precision, parse_settings

__all__ = ["prune"]


def prune(
    model: Annotated[Path, typer.Argument(help="A trained checkpoint (.pt).")],
    method: Annotated[str, typer.Option(help="A name of `compress list methods`.")],
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    density: Annotated[
        float | None, typer.Option(help="Part of each layer's channels that is computed, in (0, 1].")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write.")] = Path("slim.pt"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of the whole schedule; the method's own if absent.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 256,
    lr: Annotated[float, typer.Option(min=0.0, help="Peak learning rate of the fine-tuning.")] = 0.05,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyper-parameter of the method; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of images, augmentation and start values.")] = 0,
    precision: Annotated[Precision, typer.Option(help="auto measures at the start which is faster.")] = Precision.AUTO,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Prune a trained network and fine-tune it; its epoch is chosen on a validation split."""
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.prune import FINE_TUNING
    from compressor.pipeline.prune import prune as run
    from compressor.train import progress_on
    from compressor.train.memory import keep_freed_memory

    keep_freed_memory()
    pruned = run(
        model,
        method=method,
        data=data,
        density=density,
        output=output,
        epochs=epochs,
        resume=resume,
        seed=seed,
        settings=replace(FINE_TUNING, batch_size=batch_size, peak_lr=lr, precision=precision.value),
        method_settings=parse_settings(setting or []),
        progress=progress_on(),
    )
    typer.echo(pruned.summary())
