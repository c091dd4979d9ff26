"""`compress quantize`: weights become short fixed-point words."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import DATA_HELP, Precision

__all__ = ["parse_bytes", "quantize"]

_UNITS = {"k": 1_000, "M": 1_000_000}


def quantize(
    model: Annotated[Path, typer.Argument(help="A trained checkpoint (.pt): dense, slim or FBS.")],
    bits: Annotated[int | None, typer.Option(help="Of every weight, 2 to 8.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Instead of --bits: the fewest that lose at most this val accuracy, in %."),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(metavar="N", help="Instead of --bits: 8 or 4 each, so that the file's numbers fit: 400k, 1M."),
    ] = None,
    data: Annotated[str | None, typer.Option(help=f"To measure, choose and retrain. {DATA_HELP}")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write.")] = Path("q.pt"),
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="A step for each output channel, not one for the layer.")
    ] = False,
    pow2: Annotated[bool, typer.Option("--pow2", help="Steps are powers of two; formats Qm.n are reported.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Measure each layer alone at --bits too.")] = False,
    epochs: Annotated[int, typer.Option(min=0, help="Of retraining with float master weights.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 256,
    lr: Annotated[float, typer.Option(min=0.0, help="Peak learning rate of the retraining.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Of the order of images and augmentation.")] = 0,
    precision: Annotated[Precision, typer.Option(help="auto measures at the start which is faster.")] = Precision.AUTO,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a retraining that was stopped.")] = False,
) -> None:
    """Quantise a network's weights to fixed point; biases and batch norms stay float32."""
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.quantize import RETRAINING, BitWishes
    from compressor.pipeline.quantize import quantize as run
    from compressor.quantise import Scheme
    from compressor.train import progress_on
    from compressor.train.memory import keep_freed_memory

    if (bits is not None) + (max_drop is not None) + (max_bytes is not None) != 1:
        raise typer.BadParameter("give one of --bits (2 to 8), --max-drop and --max-bytes")
    keep_freed_memory()
    quantized = run(
        model,
        wishes=BitWishes(
            bits=bits,
            max_drop=None if max_drop is None else max_drop / 100,
            max_bytes=None if max_bytes is None else parse_bytes(max_bytes),
            scheme=Scheme(per_channel=per_channel, pow2=pow2),
            sweep=sweep,
        ),
        output=output,
        data=data,
        resume=resume,
        seed=seed,
        settings=replace(RETRAINING, epochs=epochs, batch_size=batch_size, peak_lr=lr, precision=precision.value),
        progress=progress_on(),
    )
    typer.echo(quantized.summary())


def parse_bytes(text: str) -> int:
    """Returns a number of bytes; k and M stand for thousands and millions.

    >>> parse_bytes("400k"), parse_bytes("1.5M"), parse_bytes("12345")
    (400000, 1500000, 12345)
    """
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    try:
        value = round(float(number) * unit)
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise typer.BadParameter(f"--max-bytes {text}: give a number of bytes such as 400000, 400k or 1.5M")
    return value
