"""What this machine likes: widths and times, measured where somebody did, else what is known of its kind."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compressor.costs.measured_rates import measure_rates
from compressor.costs.rates import BUILT_IN, Rates, rates_from_dict
from compressor.costs.staircase import Staircase, measure_staircase, staircase_from_json
from compressor.data.files import whole_file
from compressor.errors import CompressorError
from compressor.folders import refusal
from compressor.select import STEPS, machine_target

__all__ = ["Alignment", "Profile", "alignment", "alignment_step", "profile_machine", "profile_path"]


@dataclass(frozen=True)
class Profile:
    """What `compress profile` measures.

    Attributes:
        staircase: Time of a convolution against its width.
        rates: What each kind of work costs.
    """

    staircase: Staircase
    rates: Rates


@dataclass(frozen=True)
class Alignment:
    """What a selection of widths goes by.

    Attributes:
        step: Channels that widths should be multiples of; 1 takes any.
        rates: What each kind of work costs; None where nothing is known, and time is left out.
        finer: Smaller steps may be taken where this one keeps a budget out of reach.
    """

    step: int = 1
    rates: Rates | None = None
    finer: bool = False


def profile_path() -> Path:
    """Where `compress profile` keeps this user's measurement: XDG_CACHE_HOME, or ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "compressor" / "staircase.json"


def profile_machine(path: Path | None = None) -> tuple[Profile, Path]:
    """Measures this machine, a few seconds, and saves what it found. Returns it and where it lies.

    Raises:
        CompressorError: The folder cannot be made, or no file in it; nothing was measured then.
    """
    path = path or profile_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompressorError(f"cannot make {path.parent}: {error.strerror}; name a file with -o") from error
    reason = "that is a folder" if path.is_dir() else refusal(path.parent)
    if reason is not None:
        raise CompressorError(f"cannot write {path}: {reason}; name a file with -o")
    staircase = measure_staircase()
    profile = Profile(staircase, measure_rates(block=staircase.step))
    with whole_file(path) as file:
        file.write(json.dumps({**asdict(staircase), "rates": asdict(profile.rates)}).encode())
    return profile, path


def alignment(text: str) -> Alignment:
    """Returns what widths should be chosen by.

    Args:
        text: `auto` (the saved measurement, else what is built in for this processor; finer where a budget needs
            it), `off`, a number (that step, and no times), a target's name, or the path of a saved measurement.

    Raises:
        CompressorError: It is none of these.
    """
    if text == "auto":
        saved = profile_path()
        return replace(_saved(saved) if saved.is_file() else _built_in(machine_target()), finer=True)
    if text in STEPS:
        return _built_in(text)
    if text.isdecimal() and int(text) > 0:
        return Alignment(int(text))
    if Path(text).is_file():
        return _saved(Path(text))
    raise CompressorError(f"--align {text}: choose auto, a number from 1, a profile's path, or {', '.join(STEPS)}")


def alignment_step(text: str) -> int:
    """Returns the number of channels that widths should be multiples of; see `alignment`."""
    return alignment(text).step


def _built_in(target: str) -> Alignment:
    return Alignment(STEPS[target], BUILT_IN.get(target))


def _saved(path: Path) -> Alignment:
    """A profile; those of earlier versions hold no rates."""
    text = path.read_text(encoding="utf-8")
    staircase, rates = staircase_from_json(text), json.loads(text).get("rates")
    return Alignment(staircase.step, None if rates is None else rates_from_dict(rates))
