"""How long work tells where it is: a bar on a terminal, plain lines elsewhere."""

import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["BarProgress", "LineProgress", "Progress", "progress_on"]


class Progress:
    """Says nothing; the base of the others."""

    def start(self, text: str, *, total: int, done: int = 0) -> None:
        """Begins a stretch of `total` steps of which `done` are behind."""

    def advance(self) -> None:
        """One step more is done."""

    def line(self, text: str) -> None:
        """Says one thing that stays readable."""

    def stop(self) -> None:
        """Ends the stretch, also after an error."""


class LineProgress(Progress):
    """Lines only, one per thing said: for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        """Writes the line at once."""
        print(text, file=self._stream, flush=True)


class BarProgress(Progress):
    """A bar with the remaining time under the lines."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._bar: RichProgress | None = None

    def start(self, text: str, *, total: int, done: int = 0) -> None:
        """Draws the bar."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = RichProgress(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task(text, total=total, completed=done)
        self._bar.start()

    def advance(self) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def line(self, text: str) -> None:
        """Writes the line above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def progress_on(stream: TextIO | None = None) -> Progress:
    """Returns a bar where `stream` (standard error unless given) is a terminal, lines otherwise."""
    stream = sys.stderr if stream is None else stream
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)
