"""Recipes: a method's numbers as one TOML file; the folder is the registry and a file's name is the recipe's name.

    method = "gate-decorator"
    [settings]     fields of the method
    [training]     fields of `compressor.train.TrainSettings` for the fine-tuning, `epochs` among them; what a method
                   trains before it cuts takes the batch size, weight decay and so on from here as well

A recipe named as a method is that method's default.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError
from compressor.recipes.recipe import Recipe, read_recipe

__all__ = ["Recipe", "chosen", "get", "names"]


def names() -> list[str]:
    """The shipped recipes' names, sorted.

    >>> "gate-decorator" in names()
    True
    """
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def get(name: str) -> Recipe:
    """Returns a shipped recipe by name, or one from a file by its path.

    >>> get("gate-decorator").settings["l1"]
    0.001

    Raises:
        CompressorError: there is neither, or it is not a recipe; says what is wrong.
    """
    return read_recipe(name, names())


def chosen(method: str, name: str | None, values: Mapping[str, Any]) -> Recipe | None:
    """Returns the recipe that a run of a method goes by; None where none is named and the method has none.

    Args:
        method: the method's name.
        name: a shipped recipe or a file; None takes the method's own.
        values: numbers to replace, see `Recipe.changed`.

    Raises:
        CompressorError: there is no such recipe, it is for another method, or a value does not fit.
    """
    if name is None and method not in names():
        return None
    recipe = get(name or method)
    if recipe.method != method:
        raise CompressorError(f"recipe {name} is for method {recipe.method}, not {method}")
    return recipe.changed(values)
