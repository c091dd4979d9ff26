"""One recipe: read from TOML, and changed by what the user says besides."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from compressor import methods
from compressor.errors import CompressorError, MethodError
from compressor.train.settings import TrainSettings

__all__ = ["Recipe", "read_recipe"]

# What each run decides for itself.
_OWN = {"seed", "task", "settle_epochs", "keep", "num_workers"}


@dataclass(frozen=True)
class Recipe:
    """A method with its numbers.

    Attributes:
        method: its name.
        settings: fields of the method that differ from its defaults.
        training: fields of `TrainSettings` likewise.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, values: Mapping[str, Any]) -> "Recipe":
        """Returns the recipe with some numbers replaced.

        A name is looked for in the method first, then in the training; `training.NAME` in the training alone.

        Raises:
            CompressorError: a name is a field of neither, or a value has another type.
        """
        known = methods.get(self.method)().settings()
        own: dict[str, Any] = {}
        other: dict[str, Any] = {}
        for name, value in values.items():
            field_name = name.removeprefix("training.")
            in_training = field_name != name or (name not in known and name in _trainable())
            (other if in_training else own)[field_name] = value
        return _checked(replace(self, settings={**self.settings, **own}, training={**self.training, **other}), "")

    def train_settings(self) -> TrainSettings:
        """Returns the settings of the fine-tuning; what the recipe does not say has `TrainSettings`' defaults."""
        return TrainSettings(**self.training)


def read_recipe(name: str, shipped: list[str]) -> Recipe:
    """Returns the recipe of a shipped name or of a file; `compressor.recipes.get` is the door."""
    path = Path(__file__).parent / f"{name}.toml" if name in shipped else Path(name)
    if not path.is_file():
        raise CompressorError(f"no recipe '{name}'; give a .toml file or one of: {', '.join(shipped)}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CompressorError(f"{path} is not TOML: {error}") from error
    if unknown := sorted(set(values) - {"method", "settings", "training"}):
        raise CompressorError(f"{path}: unknown {', '.join(unknown)}; a recipe has method, [settings] and [training]")
    method, settings, training = values.get("method"), values.get("settings", {}), values.get("training", {})
    if not isinstance(method, str) or not isinstance(settings, dict) or not isinstance(training, dict):
        raise CompressorError(f'{path}: a recipe has method = "NAME" and the tables [settings] and [training]')
    return _checked(Recipe(method, settings, training), f"{path}: ")


def _checked(recipe: Recipe, where: str) -> Recipe:
    """Returns the recipe; raises CompressorError with all that is wrong in it."""
    try:
        known = methods.get(recipe.method)().settings()
    except MethodError as error:
        raise CompressorError(f"{where}{error}") from error
    problems = []
    for table, values, allowed in (
        ("settings", recipe.settings, known),
        ("training", recipe.training, _trainable()),
    ):
        if unknown := [name for name in values if name not in allowed]:
            what = f"{recipe.method} has no setting" if table == "settings" else "training has no field"
            problems.append(f"{what} {', '.join(unknown)}; it has: {', '.join(allowed)}")
        problems += [
            f"{name}={value!r} is not a {type(allowed[name]).__name__}"
            for name, value in values.items()
            if name in allowed and not _fits(value, allowed[name])
        ]
    choices = {"schedule": ("cosine", "triangular", "constant"), "precision": ("auto", "32", "bf16")}
    problems += [
        f"{name}={recipe.training[name]!r}; choose from: {', '.join(values)}"
        for name, values in choices.items()
        if name in recipe.training and recipe.training[name] not in values
    ]
    if problems:
        raise CompressorError(f"{where}{'; '.join(problems)}")
    return recipe


def _trainable() -> dict[str, Any]:
    """Fields of the training that a recipe may set, with their defaults."""
    defaults = asdict(TrainSettings())
    return {entry.name: defaults[entry.name] for entry in fields(TrainSettings) if entry.name not in _OWN}


def _fits(value: object, default: object) -> bool:
    """Whether a value is of its default's type; None stands for a number that need not be there."""
    if default is None or isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)
