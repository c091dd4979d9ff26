"""The process that holds one model: reads commands as JSON lines on stdin, answers with JSON lines on stdout.

    open      {path, stock, isa, providers, threads, batch, seed}
              -> {isa, warnings, metadata, rss_before_session_bytes}
    warm_up   {window_s} -> {}
    round     {runs, min_time_s} -> {latency_ns: [...], peak_rss_bytes}

A command that fails is answered with {error: text}. End of input ends the process. Whatever libraries print
goes to stderr, so that only answers travel on stdout. The parent stops this process (SIGSTOP) between
answers; see `process`.
"""

import gc
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from runtime.bench.candidate import PROVIDERS
from runtime.bench.device_run import DEVICES, bind
from runtime.bench.footprint import peak_rss_bytes, rss_bytes
from runtime.bench.inputs import make_inputs
from runtime.bench.model import open_model
from runtime.results import BenchmarkError

__all__ = ["main"]

# Warm-up ends when a window's median is no longer this much below the window's before it: what still differs
# is noise (medians of one model in neighbouring rounds were seen 1-3 % apart on a shared 4-core machine).
_STABLE_FRACTION = 0.97
_MAX_WARM_UP_WINDOWS = 8
_MIN_RUNS_PER_WINDOW = 3
# A round begins with unmeasured runs: the other models' rounds took the caches and the stopped thread pool
# has to wake.
_MIN_SETTLING_RUNS = 2
_SETTLING_FRACTION = 0.1


class Worker:
    """Holds the session between commands; one method per command."""

    def __init__(self) -> None:
        self._run: Callable[[], object] | None = None

    def open(
        self,
        *,
        path: str,
        stock: bool,
        isa: str | None,
        providers: list[str],
        threads: int,
        batch: int,
        seed: int,
    ) -> dict[str, Any]:  # Any: JSON values
        """Loads the model and makes its inputs."""
        before = rss_bytes()
        model = open_model(path, stock=stock, isa=isa, providers=providers, threads=threads)
        inputs = make_inputs(model.inputs, batch=batch, seed=seed)
        device = DEVICES.get(next((name for name, known in PROVIDERS.items() if known[0] == providers[0]), "cpu"))
        self._run = (lambda: model.session.run(inputs)) if device is None else bind(model.session, inputs, device)
        return {
            "isa": model.session.isa,
            "warnings": model.session.warnings,
            "metadata": model.metadata,
            "rss_before_session_bytes": before,
        }

    def warm_up(self, *, window_s: float) -> dict[str, Any]:
        """Runs windows of `window_s` until their median no longer falls."""
        previous = float("inf")
        for _ in range(_MAX_WARM_UP_WINDOWS):
            median = statistics.median(self._time_runs(_MIN_RUNS_PER_WINDOW, window_s))
            if median >= _STABLE_FRACTION * previous:
                break
            previous = median
        return {}

    def round(self, *, runs: int, min_time_s: float) -> dict[str, Any]:
        """Measures at least `runs` runs and at least `min_time_s`, whichever is longer."""
        self._time_runs(_MIN_SETTLING_RUNS, _SETTLING_FRACTION * min_time_s)
        latency_ns = self._time_runs(runs, min_time_s)
        return {"latency_ns": latency_ns, "peak_rss_bytes": peak_rss_bytes()}

    def _time_runs(self, runs: int, min_time_s: float) -> list[int]:
        """Returns wall times in nanoseconds; the collector of cyclic garbage sleeps meanwhile."""
        assert self._run is not None, "open comes first"
        run = self._run
        samples: list[int] = []
        gc.collect()
        gc.disable()
        try:
            end = time.perf_counter_ns() + int(min_time_s * 1e9)
            after = 0
            while len(samples) < runs or after < end:
                before = time.perf_counter_ns()
                run()
                after = time.perf_counter_ns()
                samples.append(after - before)
        finally:
            gc.enable()
        return samples


def main() -> None:
    """Answers commands until stdin ends."""
    _die_with_parent()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        worker = Worker()
        commands: dict[str, Callable[..., dict[str, Any]]] = {
            "open": worker.open,
            "warm_up": worker.warm_up,
            "round": worker.round,
        }
        for line in sys.stdin:
            message = json.loads(line)
            _answer(answers, commands[message["command"]], message["arguments"])


def _answer(answers: TextIO, command: Callable[..., dict[str, Any]], arguments: dict[str, Any]) -> None:
    try:
        answer = command(**arguments)
    except BenchmarkError as error:
        answer = {"error": str(error)}
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _die_with_parent() -> None:
    """Asks Linux to kill this process when its parent dies; a stopped one cannot see its input end."""
    if sys.platform != "linux":
        return
    import ctypes  # only here, and only on Linux

    parent_death_signal = 1  # PR_SET_PDEATHSIG in linux/prctl.h
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    main()
