"""From a method's name and what a user sets of it to the method itself."""

from collections.abc import Mapping

from compressor import methods
from compressor.errors import MethodError
from compressor.methods.base import Method

__all__ = ["make_method"]


def make_method(name: str, settings: Mapping[str, object]) -> Method:
    """Returns the method `name` with `settings`.

    Raises:
        MethodError: There is no such method, or a setting is unknown to it or of another type.
    """
    kind = methods.get(name)
    defaults = kind().settings()
    wrong = [
        f"{setting}={value!r} is not a {type(defaults[setting]).__name__}"
        for setting, value in settings.items()
        if setting in defaults and not _fits(value, defaults[setting])
    ]
    if wrong:
        raise MethodError(f"{name}: {'; '.join(wrong)}")
    if unknown := [setting for setting in settings if setting not in defaults]:
        raise MethodError(f"{name} has no setting {', '.join(unknown)}; its settings are: {', '.join(defaults)}")
    return kind(**settings)


def _fits(value: object, default: object) -> bool:
    """Whether a value is of its default's type; a default of None says nothing, and an int is a float too."""
    if default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)
