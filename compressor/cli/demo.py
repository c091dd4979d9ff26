"""`compress demo`: the whole road on embedded data, ending in one table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from compressor.cli.output import show

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints and ONNX files.")] = Path("demo"),
) -> None:
    """Train a small network on the digits, prune it in two ways, export, verify, benchmark; one table at the end."""
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.demo import run_demo
    from compressor.train import progress_on
    from compressor.train.memory import keep_freed_memory

    keep_freed_memory()
    done = run_demo(out, progress=progress_on())
    table = Table(title="digits, one thread, one image")
    table.add_column("network")
    for column in (
        "test accuracy",
        "differs from torch",
        "M MACs",
        "file kB",
        "peak MB",
        "p50 ms",
        "speed-up",
    ):
        table.add_column(column, justify="right")
    for row in done.rows:
        result = row.result
        speedup = result.speedup_to_first
        table.add_row(
            row.what + (f" ({result.isa})" if result.isa else ""),
            f"{row.test_top1:.2%}",
            f"{row.relative_error:.0e}",
            "?" if result.macs is None else f"{result.macs / 1e6:.2f}",
            f"{result.file_bytes / 1e3:.0f}",
            f"{result.peak_rss_bytes / 1e6:.0f}",
            f"{result.latency_ms.p50:.3f}",
            "1.00x" if speedup is None else f"{speedup.median:.2f}x",
        )
    show(table)
    typer.echo(f"checkpoints and ONNX files: {done.folder}")
