"""The one error of this package."""

__all__ = ["ModelError"]


class ModelError(Exception):
    """A network cannot be built: unknown name, unreadable file, or arguments that do not fit."""
