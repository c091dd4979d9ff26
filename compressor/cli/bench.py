"""`compress bench`: models against each other in milliseconds and bytes. Works without torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from compressor.cli.output import check_folder, show
from compressor.siblings import check_siblings

if TYPE_CHECKING:
    from runtime.bench import BenchmarkStep, Candidate
    from runtime.results import BenchmarkResult

__all__ = ["Provider", "bench"]

_COLUMNS = (
    "model",
    "isa",
    "threads",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "peak MB",
    "file MB",
    "MMACs",
    "speed-up",
)
_TEXT_COLUMNS = 2  # the first ones; the others are numbers and stand to the right
# Above this share of the processors already at work before the start, percentiles tell of the neighbours too.
_BUSY_FRACTION = 0.25


class Provider(StrEnum):
    """Where ONNX Runtime runs the models."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL.onnx",
            help="Files to compare; the first is the yardstick. FILE@stock or FILE@ISA sets how that one "
            "runs, so that a file can be compared with itself.",
        ),
    ],
    threads: Annotated[str, typer.Option(metavar="N[,N...]", help="Numbers of threads.")] = "1",
    batch: Annotated[int, typer.Option(min=1, help="Samples per run.")] = 1,
    provider: Annotated[Provider, typer.Option(help="Where ONNX Runtime runs the models.")] = Provider.CPU,
    stock: Annotated[bool, typer.Option("--stock", help="Run without the native library.")] = False,
    isa: Annotated[
        str | None, typer.Option(help="Instruction set of the native kernels (see: compress list isas).")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results here as JSON.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of a round, at least.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating rounds per model.")] = 7,
    min_time: Annotated[float, typer.Option(min=0.0, help="Seconds of a round, at least.")] = 0.5,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds a model may take for one step.")] = 600.0,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where each model's time goes, node by node, instead of comparing.")
    ] = False,
) -> None:
    """Measure latency, memory and size of ONNX models, each in its own process, rounds alternating."""
    thread_counts = _parse_threads(threads)
    if stock and isa is not None:
        raise typer.BadParameter("--stock and --isa contradict each other; give one of them")
    if profile and json_file is not None:
        raise typer.BadParameter("--profile prints a table and writes no report; leave --json out")
    check_folder(json_file)

    check_siblings("exporters", "runtime")
    # Only now: `compress --help` must not wait for ONNX Runtime.
    from runtime.bench import benchmark
    from runtime.machine import describe_machine
    from runtime.results import BenchmarkReport, save_report

    candidates = [_parse_candidate(path, stock=stock, isa=isa) for path in models]
    _check(candidates, provider.value)
    machine = describe_machine()
    if machine.load_1min is not None and machine.load_1min > _BUSY_FRACTION * machine.cores:
        _note(
            f"note: this machine is busy (load {machine.load_1min:g} on {machine.cores} processors): "
            "trust the speed-up, which compares neighbouring rounds, more than the milliseconds"
        )
    if profile:
        for candidate in candidates:
            for num_threads in thread_counts:
                _print_profile(candidate, threads=num_threads, batch=batch, runs=runs, provider=provider.value)
        return
    with _progress() as progress:
        results = benchmark(
            candidates,
            threads=thread_counts,
            batch=batch,
            runs=runs,
            rounds=rounds,
            min_time_s=min_time,
            provider=provider.value,
            timeout_s=timeout,
            progress=progress,
        )
    _print_results(results)
    for warning in dict.fromkeys(warning for result in results for warning in result.warnings):
        _note(f"warning: {warning}")
    if json_file is not None:
        save_report(BenchmarkReport(machine, tuple(results)), json_file)


def _check(candidates: list["Candidate"], provider: str) -> None:
    """Refuses, before anything is measured or said, what could not be measured."""
    from exporters.load import check_runnable
    from runtime.bench.candidate import check_candidates, named, on_device, onnxruntime_providers

    check_candidates(named(candidates))
    onnxruntime_providers(provider)
    on_device(candidates, provider)
    for path in dict.fromkeys(candidate.path for candidate in candidates):
        check_runnable(path)


def _parse_threads(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"--threads {text!r}: expected numbers from 1 with commas between, like 1,4")
    return tuple(dict.fromkeys(counts))


def _parse_candidate(path: Path, *, stock: bool, isa: str | None) -> "Candidate":
    """Splits FILE@SETTING; a file whose own name has an @ is taken as it is."""
    from runtime.bench import Candidate

    name, at, setting = str(path).rpartition("@")
    if not at or path.exists():
        return Candidate(path, stock=stock, isa=isa)
    return Candidate(Path(name), stock=setting == "stock", isa=None if setting == "stock" else setting)


@contextmanager
def _progress() -> Iterator[Callable[["BenchmarkStep"], None]]:
    """Yields what shows a step: a bar on a terminal, elsewhere a line per number of threads and round."""
    console = Console(stderr=True)
    if not console.is_terminal:
        shown: set[tuple[int, str, int]] = set()

        def write_line(step: "BenchmarkStep") -> None:
            key = (step.threads, step.action, step.round)
            if key not in shown:
                shown.add(key)
                _note(f"{_threads_text(step.threads)}: {step.action}{f' {step.round}' if step.round else ''}")

        yield write_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn only between the steps: a thread that redraws would run beside the measurement.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("start", total=None)

        def move_bar(step: "BenchmarkStep") -> None:
            text = f"{_threads_text(step.threads)} · {step.action} · {step.label}"
            bar.update(task, description=text, total=step.num_steps, completed=step.step - 1, refresh=True)

        yield move_bar


def _print_results(results: list["BenchmarkResult"]) -> None:
    """Prints a table on a terminal; elsewhere plain lines with aligned columns, however wide."""
    rows = [_row(result) for result in results]
    console = Console()
    if console.is_terminal:
        table = Table()
        for index, column in enumerate(_COLUMNS):
            table.add_column(column, justify="left" if index < _TEXT_COLUMNS else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(len(row[index]) for row in (_COLUMNS, *rows)) for index in range(len(_COLUMNS))]
    for row in (_COLUMNS, *rows):
        cells = (
            cell.ljust(width) if index < _TEXT_COLUMNS else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        typer.echo("  ".join(cells).rstrip())


def _print_profile(candidate: "Candidate", *, threads: int, batch: int, runs: int, provider: str) -> None:
    """Prints one row per node in order of execution, and the sum."""
    from runtime.bench import profile_nodes

    nodes = profile_nodes(
        candidate.path,
        threads=threads,
        batch=batch,
        runs=runs,
        stock=candidate.stock,
        isa=candidate.isa,
        provider=provider,
    )
    table = Table(title=f"{candidate.path}, {_threads_text(threads)}: median of {runs} runs")
    for column in ("node", "op", "way"):
        table.add_column(column, overflow="fold")
    for column in ("output kB", "us", "share"):
        table.add_column(column, justify="right")
    for node in nodes:
        table.add_row(
            node.name,
            node.op,
            node.way or "-",
            f"{node.output_bytes / 1e3:.1f}",
            f"{node.median_us:.0f}",
            f"{node.share:.1%}",
        )
    table.add_row("all", "", "", "", f"{sum(node.median_us for node in nodes):.0f}", "100.0%", style="bold")
    show(table)


def _row(result: "BenchmarkResult") -> tuple[str, ...]:
    latency, speedup = result.latency_ms, result.speedup_to_first
    return (
        result.label,
        result.isa or "-",
        str(result.threads),
        f"{latency.p50:.3f}",
        f"{latency.p90:.3f}",
        f"{latency.p99:.3f}",
        f"{result.peak_rss_bytes / 1e6:.1f}",
        f"{result.file_bytes / 1e6:.3f}",
        "-" if result.macs is None else f"{result.macs / 1e6:.2f}",
        "-" if speedup is None else f"{speedup.median:.2f}x ({speedup.min:.2f}-{speedup.max:.2f})",
    )


def _threads_text(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _note(text: str) -> None:
    typer.echo(text, err=True)
