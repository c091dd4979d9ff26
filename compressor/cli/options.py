"""Options that several commands share."""

import json
from enum import StrEnum

import typer

__all__ = ["DATA_HELP", "MODEL_HELP", "Precision", "parse_floats", "parse_numbers", "parse_settings", "parse_size"]

DATA_HELP = "digits, cifar10:PATH, cifar100:PATH, imagefolder:PATH, npz:PATH, or images:PATH (no labels)."
MODEL_HELP = "A checkpoint (.pt); or, with --untrained, a network as `compress train --arch` takes it."


class Precision(StrEnum):
    """Number format of training."""

    AUTO = "auto"
    FP32 = "32"
    BF16 = "bf16"


def parse_settings(texts: list[str]) -> dict[str, object]:
    """Returns NAME=VALUE texts as values: numbers, true and false are read as such, the rest stays text.

    >>> parse_settings(["form=released", "l1=1e-6", "step_epochs=2", "normalize=true"])
    {'form': 'released', 'l1': 1e-06, 'step_epochs': 2, 'normalize': True}
    """
    values: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"'{text}' is not NAME=VALUE, for example --set form=released")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def parse_numbers(texts: list[str]) -> dict[str, float]:
    """Returns [PATTERN=]N texts as pattern -> number; without a pattern it is for all layers.

    >>> parse_numbers(["0.25", "layer4.*=32"])
    {'*': 0.25, 'layer4.*': 32.0}
    """
    values: dict[str, float] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            values[pattern or "*"] = float(number)
        except ValueError:
            raise typer.BadParameter(f"'{text}' is not [PATTERN=]N, for example --keep-min 'layer4.*=32'") from None
    return values


def parse_floats(option: str, text: str | None) -> tuple[float, ...] | None:
    """Returns a list of numbers, None as None.

    >>> parse_floats("--mean", "0.5,0.25")
    (0.5, 0.25)
    """
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} '{text}' is not a list of numbers, such as 0.485,0.456,0.406") from None


def parse_size(text: str) -> tuple[int, int]:
    """Returns height and width in pixels.

    >>> parse_size("480x640")
    (480, 640)
    """
    height, x, width = text.partition("x")
    if x and height.isdecimal() and width.isdecimal() and int(height) and int(width):
        return int(height), int(width)
    raise typer.BadParameter(f"--image-size {text}: give height and width in pixels, such as 480x640")
