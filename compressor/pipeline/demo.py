"""The road of `compress demo`: train, prune, export, verify and benchmark on the embedded digits."""

from dataclasses import dataclass, replace
from pathlib import Path

from compressor import recipes
from compressor.pipeline.export import export_network
from compressor.pipeline.prune import FINE_TUNING, prune
from compressor.pipeline.slim import SlimNetwork, Wishes, slim
from compressor.pipeline.steps import alignment
from compressor.pipeline.train import train_dense
from compressor.pipeline.verify import verify_network
from compressor.select import parse_budget
from compressor.train import Progress, TrainSettings
from runtime.bench import Candidate, benchmark
from runtime.results import BenchmarkResult

__all__ = ["DemoResult", "DemoRow", "run_demo"]

ARCHITECTURE, DATA, DENSITY = "digitsnet", "digits", 0.5
# Half of the channels everywhere is a quarter of the multiply-accumulates; so both ways cost about the same.
_BUDGET, _RECIPE, _SLIM_EPOCHS = "macs=0.25x", "gate-decorator-cheap", 4
_TICK_FRACTION = 0.08  # larger than the recipe's: so small a network needs no smaller steps
# Enough for 98 % and more on the digits, in well under a minute on two cores.
_TRAINING = TrainSettings(epochs=20, batch_size=64, peak_lr=0.1, precision="32")
_EPOCHS_AT_DENSITY = 12


@dataclass(frozen=True)
class DemoRow:
    """One way of running one of the networks.

    Attributes:
        what: For people.
        test_top1: Of the network, 0 to 1.
        relative_error: Largest difference of the file from torch, as a fraction of the largest output.
        result: Latency, memory, size and MACs.
    """

    what: str
    test_top1: float
    relative_error: float
    result: BenchmarkResult


@dataclass(frozen=True)
class DemoResult:
    """All rows; the first is the dense network, to which the speed-ups refer."""

    rows: tuple[DemoRow, ...]
    folder: Path


def run_demo(folder: Path, *, progress: Progress | None = None) -> DemoResult:
    """Makes three checkpoints and three ONNX files in `folder` and measures them.

    Raises:
        CompressorError: A step failed; says which file or number.
    """
    progress = progress or Progress()
    folder.mkdir(parents=True, exist_ok=True)
    dense_pt, slim_pt, fbs_pt = (folder / f"{name}.pt" for name in ("dense", "slim", "fbs"))
    dense_onnx, slim_onnx, fbs_onnx = (folder / f"{name}.onnx" for name in ("dense", "slim", "fbs"))

    progress.line(f"1/5 train {ARCHITECTURE} on the {DATA}")
    dense = train_dense(ARCHITECTURE, DATA, output=dense_pt, settings=_TRAINING, progress=progress)
    progress.line(f"2/5 gate-decorator: channels gone for good ({_BUDGET})")
    slimmed = _slim(dense_pt, slim_pt, progress)
    progress.line(f"3/5 fbs: half of the channels, other ones for every image (density {DENSITY:g})")
    pruned = prune(
        dense_pt,
        data=DATA,
        density=DENSITY,
        output=fbs_pt,
        settings=replace(FINE_TUNING, batch_size=_TRAINING.batch_size, precision="32"),
        method_settings={"final_epochs": _EPOCHS_AT_DENSITY},
        progress=progress,
    )
    progress.line("4/5 export, and compare with torch on every instruction set")
    errors = {}
    for checkpoint, file in ((dense_pt, dense_onnx), (slim_pt, slim_onnx), (fbs_pt, fbs_onnx)):
        export_network(str(checkpoint), output=file)
        errors[file] = verify_network(str(checkpoint), file, data=DATA).relative_error
    progress.line("5/5 benchmark: one process at a time, rounds alternating")
    candidates = [Candidate(dense_onnx), Candidate(slim_onnx), Candidate(fbs_onnx, stock=True), Candidate(fbs_onnx)]
    results = benchmark(candidates, threads=(1,), rounds=5, min_time_s=0.3)
    names = (
        "dense, ONNX Runtime",
        "Gate Decorator, ONNX Runtime",
        "FBS, ONNX Runtime alone",
        "FBS, with the native library",
    )
    accuracies = (dense.test_top1, slimmed.test_top1, pruned.test_top1, pruned.test_top1)
    files = (dense_onnx, slim_onnx, fbs_onnx, fbs_onnx)
    rows = zip(names, accuracies, files, results, strict=True)
    return DemoResult(
        rows=tuple(DemoRow(name, top1, errors[file], result) for name, top1, file, result in rows),
        folder=folder,
    )


def _slim(source: Path, output: Path, progress: Progress) -> SlimNetwork:
    recipe = recipes.get(_RECIPE)
    return slim(
        source,
        method=recipe.method,
        data=DATA,
        wishes=Wishes(parse_budget(_BUDGET), align=alignment("auto")),
        output=output,
        epochs=_SLIM_EPOCHS,
        settings=replace(recipe.train_settings(), batch_size=_TRAINING.batch_size, precision="32"),
        method_settings={**recipe.settings, "prune_fraction": _TICK_FRACTION},
        progress=progress,
    )
