"""Options that several commands share."""

import json
from enum import StrEnum

import typer

__all__ = ["DATA_HELP", "MODEL_HELP", "Precision", "parse_numbers", "parse_settings"]

DATA_HELP = "digits, cifar10:PATH, cifar100:PATH, imagefolder:PATH or npz:PATH."
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
