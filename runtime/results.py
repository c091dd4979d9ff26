"""What a benchmark hands back, and its JSON form."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.errors import RuntimeLibraryError
from runtime.machine import Machine

__all__ = [
    "BenchmarkError",
    "BenchmarkReport",
    "BenchmarkResult",
    "LatencyMs",
    "Speedup",
    "load_report",
    "save_report",
]


class BenchmarkError(RuntimeLibraryError):
    """A model cannot be measured, or a report cannot be read; the message names the file and why."""


@dataclass(frozen=True)
class LatencyMs:
    """Percentiles of one run's wall time in milliseconds, over the runs of all rounds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Speedup:
    """The first model's median latency over this model's, round by round: 2.0 is twice as fast as the first.

    Both medians of a pair come from the same round, minutes of drift apart from other pairs but not from each
    other.

    Attributes:
        median: Median over the rounds.
        min: The least favourable round.
        max: The most favourable round.
    """

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class BenchmarkResult:
    """One model measured with one number of threads.

    Attributes:
        model: Path of the file as it was given.
        label: Name for people; tells two settings of one file apart.
        provider: "cpu", "cuda" or "tensorrt".
        isa: Instruction set of the native kernels; None where stock ONNX Runtime ran the model.
        threads: Threads of the session.
        batch: Samples per run.
        runs: Measured runs, all rounds together.
        rounds: Rounds, alternating with the other models'.
        latency_ms: Wall time of one run.
        peak_rss_bytes: Highest resident memory of the model's own process, Python and ONNX Runtime included.
        rss_before_session_bytes: Resident memory of that process just before the model was loaded.
        file_bytes: Size of the file and of the external data it names.
        macs: Multiply-accumulates per sample by the file's metadata; None where it does not say.
        density: Kept share of the channels by the file's metadata, 0-1; None where it does not say.
        method: Compression method by the file's metadata; None where it does not say.
        warnings: One line for each thing that made the model slower than it could be, such as a native library
            that is not built; empty is good.
        speedup_to_first: Against the first model with the same threads (1.0 for that one itself); None where
            a report was written without it.
    """

    model: str
    label: str
    provider: str
    isa: str | None
    threads: int
    batch: int
    runs: int
    rounds: int
    latency_ms: LatencyMs
    peak_rss_bytes: int
    rss_before_session_bytes: int | None
    file_bytes: int
    macs: int | None
    density: float | None
    method: str | None
    warnings: tuple[str, ...]
    speedup_to_first: Speedup | None

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Returns plain values under the attributes' names."""
        return {**asdict(self), "warnings": list(self.warnings)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BenchmarkResult":
        """Rebuilds what `to_json` gave.

        Raises:
            KeyError: A name that every report has is missing.
        """
        speedup = values.get("speedup_to_first")
        return cls(
            model=values["model"],
            label=values.get("label", values["model"]),
            provider=values["provider"],
            isa=values["isa"],
            threads=values["threads"],
            batch=values["batch"],
            runs=values["runs"],
            rounds=values.get("rounds", 1),
            latency_ms=LatencyMs(**values["latency_ms"]),
            peak_rss_bytes=values["peak_rss_bytes"],
            rss_before_session_bytes=values.get("rss_before_session_bytes"),
            file_bytes=values["file_bytes"],
            macs=values["macs"],
            density=values.get("density"),
            method=values.get("method"),
            warnings=tuple(values.get("warnings", ())),
            speedup_to_first=None if speedup is None else Speedup(**speedup),
        )


@dataclass(frozen=True)
class BenchmarkReport:
    """Results of one benchmark and the machine they were taken on."""

    machine: Machine
    results: tuple[BenchmarkResult, ...]

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Returns `{"machine": {...}, "results": [...]}` of plain values."""
        return {"machine": self.machine.to_json(), "results": [result.to_json() for result in self.results]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BenchmarkReport":
        """Rebuilds what `to_json` gave.

        Raises:
            KeyError: A name that every report has is missing.
        """
        results = tuple(BenchmarkResult.from_json(result) for result in values["results"])
        return cls(Machine.from_json(values["machine"]), results)


def save_report(report: BenchmarkReport, path: str | Path) -> None:
    """Writes a report as JSON; the file appears complete or not at all.

    Raises:
        OSError: The folder does not exist or cannot be written.
    """
    path = Path(path)
    text = json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n"
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o666 & ~_umask())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def load_report(path: str | Path) -> BenchmarkReport:
    """Reads a report that `save_report` wrote.

    Raises:
        BenchmarkError: The file is not such a report.
        OSError: The file cannot be read.
    """
    try:
        return BenchmarkReport.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(
            f"{path}: not a benchmark report ({type(error).__name__}: {error}); "
            "expected the JSON that `compress bench --json` writes"
        ) from error


def _umask() -> int:
    """Returns the process's umask, which can only be read by setting it (a temporary file ignores it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
