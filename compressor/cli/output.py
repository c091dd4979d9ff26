"""What the commands print and write: tables that survive a pipe, JSON that is whole or absent."""

import json
import os
import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from compressor.folders import refusal

__all__ = ["check_folder", "show", "write_json"]

_PIPE_WIDTH = 200  # characters; where there is no terminal, nothing is cut off


def show(table: Table) -> None:
    """Prints a table, as wide as it needs where the output is not a terminal."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width).print(table)


def check_folder(file: Path | None, option: str = "--json") -> None:
    """Ends with wrong usage, before any work is done, where an option names a file that cannot be written."""
    if file is None:
        return
    if file.is_dir():
        raise typer.BadParameter(f"{option} {file}: that is a folder; name a file in it")
    if not file.parent.is_dir():
        raise typer.BadParameter(f"{option} {file}: the folder {file.parent} does not exist")
    if (reason := refusal(file.parent)) is not None:
        raise typer.BadParameter(f"{option} {file}: no file can be written in {file.parent}: {reason}")


def write_json(path: Path, values: object) -> None:
    """Writes JSON with two spaces of indent, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
