"""`compress adopt`: weights trained elsewhere, or an ONNX file, become a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import DATA_HELP, parse_floats, parse_settings, parse_size

__all__ = ["adopt"]


def adopt(
    weights: Annotated[
        Path, typer.Argument(help="What torch.save wrote: a state dict, or a network. Or an ONNX file.")
    ],
    arch: Annotated[
        str | None,
        typer.Option(
            help="Network: a name of `compress list models`, torchvision:NAME or file.py:factory; not for ONNX files."
        ),
    ] = None,
    arch_set: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An argument of the network's factory; may be repeated."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help=f"{DATA_HELP} Gives classes and normalisation; the test accuracy is measured.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="M,M,M", help="Normalisation in training, per channel on the 0-1 scale.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="S,S,S", help="The same.")] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Of an ONNX file's images, where it leaves their size open.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write.")] = Path("model.pt"),
    seed: Annotated[int, typer.Option(help="Of the validation split that later commands hold out.")] = 0,
    unsafe_pickle: Annotated[
        bool, typer.Option("--unsafe-pickle", help="Open a pickled network, which can run any code.")
    ] = False,
) -> None:
    """Make a checkpoint of weights that were trained elsewhere, or of an ONNX file."""
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.adopt import adopt_weights
    from compressor.pipeline.onnx_file import Inputs

    adopted = adopt_weights(
        weights,
        architecture=arch,
        output=output,
        architecture_settings=parse_settings(arch_set or []),
        data=data,
        inputs=Inputs(
            parse_floats("--mean", mean),
            parse_floats("--std", std),
            None if image_size is None else parse_size(image_size),
        ),
        unsafe_pickle=unsafe_pickle,
        seed=seed,
    )
    typer.echo(adopted.summary())
