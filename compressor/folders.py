"""Can a file be written there? Asked before hours of work, not after; needs nothing but the standard library."""

import tempfile
from pathlib import Path

__all__ = ["refusal"]


def refusal(folder: Path) -> str | None:
    """Returns why no file can be made in a folder, or None where it can.

    Found by making one that is gone at once: the mode bits do not tell of read-only mounts, full disks and quotas.

    Args:
        folder: An existing folder.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)
