"""Turns the answers of the workers into results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.bench.candidate import Candidate
from runtime.bench.footprint import file_bytes
from runtime.results import BenchmarkError, BenchmarkResult, LatencyMs, Speedup

__all__ = ["Measurement", "summarise"]


@dataclass
class Measurement:
    """What one worker answered so far.

    Attributes:
        candidate: What it measures.
        opened: Its answer to "open".
        rounds: Its answers to "round", in order.
    """

    candidate: Candidate
    opened: dict[str, Any]  # Any: JSON values
    rounds: list[dict[str, Any]] = field(default_factory=list)


def summarise(measurements: Sequence[Measurement], *, provider: str, threads: int, batch: int) -> list[BenchmarkResult]:
    """Returns a result per measurement; the first one is the yardstick of all.

    Percentiles run over the samples of all rounds. A speed-up is a quotient of two medians of the same round.

    Args:
        measurements: At least one, each with the same number of rounds, at least one.
        provider: "cpu", "cuda" or "tensorrt".
        threads: Threads of the sessions.
        batch: Samples per run.

    Raises:
        BenchmarkError: A file's metadata does not hold the number it should.
    """
    first_medians = _medians(measurements[0])
    results = []
    for measurement in measurements:
        samples = np.concatenate([answer["latency_ns"] for answer in measurement.rounds])
        p50, p90, p99 = (float(value) for value in np.percentile(samples, (50, 90, 99)) / 1e6)
        speedups = first_medians / _medians(measurement)
        metadata = measurement.opened["metadata"]
        macs = _number(measurement, "compress.macs")
        results.append(
            BenchmarkResult(
                model=str(measurement.candidate.path),
                label=str(measurement.candidate.label),
                provider=provider,
                isa=measurement.opened["isa"],
                threads=threads,
                batch=batch,
                runs=len(samples),
                rounds=len(measurement.rounds),
                latency_ms=LatencyMs(p50, p90, p99),
                peak_rss_bytes=max(answer["peak_rss_bytes"] for answer in measurement.rounds),
                rss_before_session_bytes=measurement.opened["rss_before_session_bytes"],
                file_bytes=file_bytes(measurement.candidate.path),
                macs=None if macs is None else round(macs),
                density=_number(measurement, "compress.density"),
                method=metadata.get("compress.method"),
                warnings=tuple(measurement.opened["warnings"]),
                speedup_to_first=Speedup(float(np.median(speedups)), float(speedups.min()), float(speedups.max())),
            )
        )
    return results


def _medians(measurement: Measurement) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns each round's median latency in nanoseconds."""
    return np.array([np.median(answer["latency_ns"]) for answer in measurement.rounds])


def _number(measurement: Measurement, key: str) -> float | None:
    """Returns a number from the file's metadata; None where the key is missing or empty."""
    metadata: Mapping[str, str] = measurement.opened["metadata"]
    text = metadata.get(key, "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise BenchmarkError(f"{measurement.candidate.path}: metadata {key} is {text!r}; expected a number") from error
