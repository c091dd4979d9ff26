"""Which widths this machine likes: its measured staircase where there is one, else what is known of its kind."""

import os
from pathlib import Path

from compressor.costs.staircase import Staircase, measure_staircase, staircase_from_json, staircase_to_json
from compressor.data.files import whole_file
from compressor.errors import CompressorError
from compressor.select import STEPS, machine_target

__all__ = ["alignment_step", "profile_machine", "profile_path"]


def profile_path() -> Path:
    """Where `compress profile` keeps this user's measurement: XDG_CACHE_HOME, or ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "compressor" / "staircase.json"


def profile_machine(path: Path | None = None) -> tuple[Staircase, Path]:
    """Measures this machine's staircase, a few seconds, and saves it. Returns it and where it lies.

    Raises:
        CompressorError: The folder cannot be made.
    """
    path = path or profile_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompressorError(f"cannot make {path.parent}: {error.strerror}; name a file with -o") from error
    staircase = measure_staircase()
    with whole_file(path) as file:
        file.write(staircase_to_json(staircase).encode())
    return staircase, path


def alignment_step(text: str) -> int:
    """Returns the number of channels that widths should be multiples of.

    Args:
        text: `auto` (the saved measurement, else the built-in step of this processor), `off`, a number, a
            target's name, or the path of a saved measurement.

    Raises:
        CompressorError: It is none of these.
    """
    if text == "auto":
        saved = profile_path()
        if saved.is_file():
            return staircase_from_json(saved.read_text(encoding="utf-8")).step
        return STEPS[machine_target()]
    if text in STEPS:
        return STEPS[text]
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if Path(text).is_file():
        return staircase_from_json(Path(text).read_text(encoding="utf-8")).step
    raise CompressorError(f"--align {text}: choose auto, a number from 1, a profile's path, or {', '.join(STEPS)}")
