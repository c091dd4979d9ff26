"""`compress list`: the names that the other commands take."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from compressor.siblings import SIBLINGS, check_siblings

__all__ = ["Kind", "list_names"]


class Kind(StrEnum):
    """What can be listed."""

    METHODS = "methods"
    RECIPES = "recipes"
    MODELS = "models"
    TARGETS = "targets"
    DATA = "data"
    ISAS = "isas"


def list_names(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List the names that the other commands take, one a line."""
    check_siblings(*SIBLINGS)
    for line in _LISTS[kind]():
        typer.echo(line)


# Each list imports its package on demand: `isas` must work where torch is absent.
def _methods() -> list[str]:
    from compressor import methods

    return methods.names()


def _recipes() -> list[str]:
    from compressor import recipes

    return recipes.names()


def _models() -> list[str]:
    import models

    return [*models.names(), "torchvision:NAME", "FILE.py:FACTORY"]


def _targets() -> list[str]:
    from exporters import targets

    return targets.names()


def _data() -> list[str]:
    from compressor import data

    return [f"{form:18} {meaning}" for form, meaning in data.FORMS.items()]


def _isas() -> list[str]:
    import runtime

    return [
        f"{isa.name:8}  {'available' if isa.built and isa.supported else _reason(isa.built)}  {isa.description}"
        for isa in runtime.isas()
    ]


def _reason(built: bool) -> str:
    return "not on this processor" if built else "not built: models run on their function body"


_LISTS: dict[Kind, Callable[[], list[str]]] = {
    Kind.METHODS: _methods,
    Kind.RECIPES: _recipes,
    Kind.MODELS: _models,
    Kind.TARGETS: _targets,
    Kind.DATA: _data,
    Kind.ISAS: _isas,
}
