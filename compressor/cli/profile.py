"""`compress profile`: the widths this machine likes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from compressor.cli.output import show

__all__ = ["profile"]


def profile(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; the user's cache if absent.")
    ] = None,
) -> None:
    """Time convolutions of many widths on this machine and save which step `prune` should round to."""
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.steps import profile_machine

    staircase, path = profile_machine(output)
    table = Table(title=f"{staircase.machine}, {staircase.threads} thread: 3×3 convolutions at 28×28")
    table.add_column("channels", justify="right")
    table.add_column("ms", justify="right")
    for width, latency in zip(staircase.widths, staircase.latency_ms, strict=True):
        table.add_row(str(width), f"{latency:.3f}")
    show(table)
    typer.echo(f"widths should be multiples of {staircase.step}; saved to {path}, where --align auto finds it")
