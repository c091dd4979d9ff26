"""`compress profile`: the widths this machine likes, and what its time goes into."""

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
    """Time convolutions and other operators on this machine; `prune` chooses widths by it."""
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.steps import profile_machine

    measured, path = profile_machine(output)
    staircase, rates = measured.staircase, measured.rates
    table = Table(title=f"{staircase.machine}, {staircase.threads} thread: 3×3 convolutions at 28×28")
    table.add_column("channels", justify="right")
    table.add_column("ms", justify="right")
    for width, latency in zip(staircase.widths, staircase.latency_ms, strict=True):
        table.add_row(str(width), f"{latency:.3f}")
    show(table)
    aligned, ragged = (rates.conv_mac, rates.depthwise_mac), (rates.ragged_mac, rates.ragged_depthwise_mac)
    for name, prices in (("widths that suit it", aligned), ("other widths", ragged)):
        conv, depthwise = (1 / price for price in prices)
        typer.echo(f"{name}: {conv:.1f} G multiply-accumulates per second, {depthwise:.1f} G in depthwise convolutions")
    use = "where --align auto finds it" if output is None else f"for --align {path}"
    typer.echo(f"widths should be multiples of {staircase.step}; saved to {path}, {use}")
