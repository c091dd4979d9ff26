"""`compress train`: a dense network from a data set."""

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import DATA_HELP, Precision, parse_settings

__all__ = ["train"]


def train(
    arch: Annotated[
        str,
        typer.Option(help="Network: a name of `compress list models`, torchvision:NAME or file.py:factory."),
    ],
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write.")] = Path("model.pt"),
    start: Annotated[Path | None, typer.Option(help="A dense checkpoint whose weights to start from.")] = None,
    arch_set: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An argument of the network's factory; may be repeated."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 256,
    lr: Annotated[float, typer.Option(min=0.0, help="Peak learning rate: linear warm-up, then cosine.")] = 0.2,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="On kernels and linear weights.")] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.0,
    clip_norm: Annotated[float | None, typer.Option(min=0.0, help="Largest norm of the gradient.")] = None,
    seed: Annotated[int, typer.Option(help="Of start weights, order, augmentation and the validation split.")] = 0,
    precision: Annotated[Precision, typer.Option(help="auto measures at the start which is faster.")] = Precision.AUTO,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode image files.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Train a network; its epoch is chosen on a validation split, the test set is reported once."""
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.train import train_dense
    from compressor.train import TrainSettings, progress_on
    from compressor.train.memory import keep_freed_memory

    keep_freed_memory()
    trained = train_dense(
        arch,
        data,
        output=output,
        settings=TrainSettings(
            epochs=epochs,
            batch_size=batch_size,
            peak_lr=lr,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            clip_norm=clip_norm,
            precision=precision.value,
            seed=seed,
            num_workers=workers,
        ),
        architecture_settings=parse_settings(arch_set or []),
        start=start,
        resume=resume,
        progress=progress_on(),
    )
    typer.echo(trained.summary())
