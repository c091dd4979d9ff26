"""`compress export`: one ONNX file that runs everywhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from compressor.cli.options import DATA_HELP, MODEL_HELP, parse_size

__all__ = ["export"]


def export(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    method: Annotated[str | None, typer.Option(help="fbs; the checkpoint's own method if absent.")] = None,
    density: Annotated[
        float | None, typer.Option(help="Part of each layer's channels that is computed, in (0, 1].")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"To fit predictors of a dense checkpoint, find channels that never win, and for --int8. {DATA_HELP}"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; MODEL's name with .onnx if absent."),
    ] = None,
    target: Annotated[str, typer.Option(help="A name of `compress list targets`.")] = "onnx",
    batch: Annotated[str, typer.Option(help="Samples per run: a number, or dynamic.")] = "1",
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time the file against the dense network, here.")
    ] = True,
    require_speedup: Annotated[
        float | None, typer.Option(min=0.0, help="Fail unless the file is this many times as fast as dense, here.")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Of the standard ops; the target's if absent.")] = None,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="The file takes uint8 images, channels last.")
    ] = False,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Of these images, where they are to be resized in the file."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Calibrated static int8 (Q/DQ; FBS layers on bytes); needs --data.")
    ] = False,
    calibration: Annotated[
        str, typer.Option(help="How --int8 finds ranges: min-max, percentile or entropy.")
    ] = "percentile",
    calibration_images: Annotated[int, typer.Option(min=1, help="How many images --int8 finds them on.")] = 256,
    sparse: Annotated[
        str,
        typer.Option(help="Pruned layers that skip absent rows: auto (where faster by rule), always, never or off."),
    ] = "auto",
    keep_never: Annotated[
        bool, typer.Option("--keep-never", help="With --data: leave FBS channels that never win in the file.")
    ] = False,
    half_predictors: Annotated[
        bool, typer.Option("--half-predictors", help="Saliency weights of FBS layers in 16 bits, with --int8 too.")
    ] = False,
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="All weights of FBS layers in 16 bits: half the file, faster too.")
    ] = False,
    byte_weights: Annotated[
        bool,
        typer.Option(
            "--byte-weights",
            help="All weights of FBS and linear layers in 8 bits: a quarter of the file, arithmetic in float.",
        ),
    ] = False,
    pad: Annotated[
        bool, typer.Option("--pad/--no-pad", help="Fill widths ONNX Runtime handles badly up with channels of zeros.")
    ] = True,
    untrained: Annotated[
        bool,
        typer.Option("--untrained", help="MODEL is an architecture; random weights, for latency studies."),
    ] = False,
) -> None:
    """Write an ONNX file; it appears only after its numbers have been compared with torch's."""
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.export import Shipping, export_network
    from compressor.pipeline.train import command_line
    from compressor.train import progress_on

    path = output if output is not None else _default_output(model)
    exported = export_network(
        model,
        output=path,
        method=method,
        density=density,
        data=data,
        target=target,
        batch=parse_batch(batch),
        untrained=untrained,
        opset=opset,
        measure=measure,
        require_speedup=require_speedup,
        shipping=Shipping(
            with_preprocessing=with_preprocessing,
            image_size=None if image_size is None else parse_size(image_size),
            int8=calibration if int8 else None,
            calibration_images=calibration_images,
            sparse=sparse,
            keep_never=keep_never,
            half_predictors=half_predictors,
            half_weights=half_weights,
            byte_weights=byte_weights,
            pad=pad,
            command=command_line(),
        ),
        progress=progress_on(),
    )
    for note in exported.notes:
        typer.echo(f"note: {note}", err=True)
    file = exported.file
    if file.command is not None:
        typer.echo(f"build the engine with: {file.command}")
    typer.echo(
        f"{file.path}: {file.file_bytes / 1e6:.2f} MB, opset {file.opset}, "
        f"largest difference from torch {file.max_difference:.1e}"
    )


def parse_batch(text: str) -> int | Literal["dynamic"]:
    """Returns a positive number of samples, or `dynamic`.

    >>> parse_batch("8"), parse_batch("dynamic")
    (8, 'dynamic')
    """
    if text == "dynamic":
        return "dynamic"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"--batch {text}: give a number from 1, or dynamic")


def _default_output(model: str) -> Path:
    """`model.pt` -> `model.onnx`; `torchvision:resnet18` -> `resnet18.onnx`, in the present folder."""
    if model.endswith(".pt"):
        return Path(model).with_suffix(".onnx")
    return Path(f"{model.rpartition(':')[2]}.onnx")
