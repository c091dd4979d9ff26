"""Measures models against each other: own processes, one at a time, rounds alternating."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from runtime.bench.candidate import Candidate, check_candidates, named, on_device, onnxruntime_providers
from runtime.bench.process import WorkerProcess
from runtime.bench.summary import Measurement, summarise
from runtime.results import BenchmarkResult

__all__ = ["BenchmarkStep", "benchmark"]

_SEED = 0
# The warm-up watches windows this long, as a share of a round.
_WARM_UP_FRACTION = 0.5


@dataclass(frozen=True)
class BenchmarkStep:
    """Told to `progress` before each step.

    Attributes:
        action: "open", "warm up" or "round".
        label: The candidate that takes the step.
        threads: Threads of its session.
        round: From 1; 0 for the other actions.
        step: From 1, over the whole benchmark.
        num_steps: Steps of the whole benchmark.
    """

    action: str
    label: str
    threads: int
    round: int
    step: int
    num_steps: int


def benchmark(
    paths: Sequence[str | Path | Candidate],
    *,
    threads: Sequence[int] = (1,),
    batch: int = 1,
    runs: int = 20,
    rounds: int = 7,
    min_time_s: float = 0.5,
    stock: bool = False,
    isa: str | None = None,
    provider: str = "cpu",
    timeout_s: float = 600.0,
    progress: Callable[[BenchmarkStep], None] | None = None,
) -> list[BenchmarkResult]:
    """Measures latency, memory and size of models on this machine.

    For each number of threads every model gets a fresh process. Rounds go A B C A B C ..., so that a drift of
    the machine meets all of them, and only the process that is measuring runs.

    Args:
        paths: Files, or `Candidate`s where files need settings of their own.
        threads: Numbers of threads, each measured with all models.
        batch: Samples per run.
        runs: Runs of a round, at least.
        rounds: Rounds per model.
        min_time_s: Seconds of a round, at least; so fast models run more often.
        stock: For the plain paths: without the native library.
        isa: For the plain paths: instruction set of the native kernels; None is the best one here.
        provider: "cpu", "cuda" or "tensorrt"; on a device, inputs and outputs stay there, the time is that of a run
            until the device has finished, and FBS layers run on their function bodies.
        timeout_s: Limit for one step (loading, warming up, one round).
        progress: Called before each step.

    Returns:
        One result per number of threads and model, in the given order, models innermost.

    Raises:
        BenchmarkError: A file is missing, is not a model or does not take the batch; the provider is not
            there; a process crashed or took too long.
        ValueError: A number is below its least value.
    """
    if not threads or min(*threads, batch, runs, rounds) < 1:
        raise ValueError(
            f"threads {tuple(threads)}, batch {batch}, runs {runs}, rounds {rounds}: each must be at least 1"
        )
    if min_time_s < 0 or timeout_s <= 0:
        raise ValueError(f"min_time_s {min_time_s}, timeout_s {timeout_s}: times must be positive")
    candidates = named(
        [path if isinstance(path, Candidate) else Candidate(path, stock=stock, isa=isa) for path in paths]
    )
    check_candidates(candidates)
    providers = onnxruntime_providers(provider)
    candidates = on_device(candidates, provider)
    num_steps = len(threads) * len(candidates) * (rounds + 2)
    steps = itertools.count(1)

    def announce(action: str, candidate: Candidate, num_threads: int, round_number: int = 0) -> None:
        if progress is not None:
            label = candidate.label or ""
            progress(BenchmarkStep(action, label, num_threads, round_number, next(steps), num_steps))

    results = []
    for num_threads in threads:
        measurements = []
        with ExitStack() as stack:
            for candidate in candidates:
                announce("open", candidate, num_threads)
                worker = stack.enter_context(closing(WorkerProcess(str(candidate.label), timeout_s=timeout_s)))
                opened = worker.ask(
                    "open",
                    path=str(candidate.path),
                    stock=candidate.stock,
                    isa=candidate.isa,
                    providers=providers,
                    threads=num_threads,
                    batch=batch,
                    seed=_SEED,
                )
                measurements.append((worker, Measurement(candidate, opened)))
            for worker, measurement in measurements:
                announce("warm up", measurement.candidate, num_threads)
                worker.ask("warm_up", window_s=_WARM_UP_FRACTION * min_time_s)
            for round_number in range(1, rounds + 1):
                for worker, measurement in measurements:
                    announce("round", measurement.candidate, num_threads, round_number)
                    measurement.rounds.append(worker.ask("round", runs=runs, min_time_s=min_time_s))
        results += summarise(
            [measurement for _, measurement in measurements],
            provider=provider,
            threads=num_threads,
            batch=batch,
        )
    return results
