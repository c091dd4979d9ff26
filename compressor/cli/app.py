"""Gathers the commands, runs them and ends with the documented exit codes.

0: done. 1: it could not be done (one line on stderr says why). 2: wrong usage. 130: Ctrl-C.
"""

import sys
from typing import Annotated

import typer

import compressor
from compressor.cli.adopt import adopt
from compressor.cli.bench import bench
from compressor.cli.demo import demo
from compressor.cli.errors import one_line, wrong_usage
from compressor.cli.export import export
from compressor.cli.inspect import inspect
from compressor.cli.list import list_names
from compressor.cli.profile import profile
from compressor.cli.prune import prune
from compressor.cli.quantize import quantize
from compressor.cli.train import train
from compressor.cli.verify import verify

__all__ = ["app", "main"]

_WRONG_USAGE = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="compress",
    help="Train, prune and ship convolutional networks: slim ONNX files, and channel skipping that is real.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (demo, train, adopt, prune, quantize, export, verify, inspect, bench, profile):
    app.command()(_command)
app.command("list")(list_names)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"compress {compressor.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command's name."""


def main(argv: list[str] | None = None) -> None:
    """Runs `compress` with `argv` (default: the process's) and exits as the module says."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments  # allowed before and after the command's name
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, prog_name="compress", standalone_mode=False)
    except Exception as error:
        told = wrong_usage(error)
        if debug and told is None:
            raise
        line, code = (one_line(error), 1) if told is None else (told, _WRONG_USAGE)
        if line:
            sys.stderr.write(f"compress: {line}\n")
    if code == _INTERRUPTED:
        sys.stderr.write("compress: interrupted; where the command has --resume, the same command with it goes on\n")
    sys.exit(code or 0)
