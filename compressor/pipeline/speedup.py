"""Is it faster, on this machine? Two networks as ONNX files, alternating, one process at a time."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

import exporters
from compressor.costs.macs import ModelCost
from compressor.errors import BudgetError
from compressor.pipeline.padding import pad_widths
from runtime.bench import benchmark

__all__ = ["MeasuredSpeedup", "measure_speedup", "require"]

# Short, but enough rounds that a busy neighbour does not decide.
_ROUNDS, _MIN_TIME_S = 7, 0.15
# Below this part of what the MACs promise, a network is not limited by its multiplications.
_FAIR_PART = 0.7


@dataclass(frozen=True)
class MeasuredSpeedup:
    """Latency of one image on one thread, dense against compressed.

    Attributes:
        ratio: Dense / compressed, median over the rounds; above 1 is faster.
        lowest: The worst round.
        highest: The best round.
        dense_ms: Median latency.
        compressed_ms: Median latency.
        isa: Instruction set of the native kernels; None where the compressed file has no use for them.
    """

    ratio: float
    lowest: float
    highest: float
    dense_ms: float
    compressed_ms: float
    isa: str | None

    def summary(self) -> str:
        """One line for people."""
        verdict = "faster" if self.ratio >= 1 else "SLOWER"
        way = f", native kernels {self.isa}" if self.isa else ""
        return (
            f"{self.ratio:.2f}x the dense network's speed here ({verdict}; {self.dense_ms:.2f} ms -> "
            f"{self.compressed_ms:.2f} ms, one thread, one image, rounds {self.lowest:.2f}-{self.highest:.2f}{way})"
        )


def measure_speedup(dense: nn.Module, compressed: nn.Module | Path, example: Tensor) -> MeasuredSpeedup:
    """Returns how much faster a compressed network is than the dense one in ONNX Runtime.

    Args:
        dense: The network before; only its architecture matters.
        compressed: The network after, which is written as `compress export` writes it, or its ONNX file of batch 1 or
            dynamic batch.
        example: (N, C, H, W), an input of both.

    Raises:
        ExportError: One of them cannot be exported.
        BenchmarkError: One of them cannot be run.
    """
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "dense.onnx", Path(folder) / "compressed.onnx"
        exporters.export(dense, example, before, batch=1)
        if isinstance(compressed, Path):
            after = compressed
        else:
            padded = pad_widths(compressed, example)
            if padded is None:
                exporters.export(compressed, example, after, batch=1)
            else:
                exporters.export(padded.model, example, after, batch=1, sparse="off")
        first, second = benchmark([before, after], threads=(1,), rounds=_ROUNDS, min_time_s=_MIN_TIME_S)
    assert second.speedup_to_first is not None
    return MeasuredSpeedup(
        ratio=second.speedup_to_first.median,
        lowest=second.speedup_to_first.min,
        highest=second.speedup_to_first.max,
        dense_ms=first.latency_ms.p50,
        compressed_ms=second.latency_ms.p50,
        isa=second.isa,
    )


def require(speedup: MeasuredSpeedup, least: float, cost: ModelCost, *, dense_macs: float, step: int) -> None:
    """Raises BudgetError, with the likely reason, where the network is not `least` times as fast as the dense one.

    Args:
        speedup: What was measured.
        least: What is asked for; 1 is not slower.
        cost: Of the compressed network.
        dense_macs: Of the dense one.
        step: Channels that widths should be multiples of on this machine.
    """
    if speedup.ratio >= least:
        return
    saving = dense_macs / cost.macs
    ragged = [
        layer.name
        for layer in cost.layers
        if layer.kind == "conv" and layer.out_channels % step and layer.winners is None
    ]
    if ragged and step > 1:
        reason = (
            f"{len(ragged)} layers ({', '.join(ragged[:3])}, …) have widths that are no multiple of {step}, which "
            "leaves the blocked kernels: keep --align on"
        )
    elif saving < least:
        reason = f"only {saving:.2f}x fewer multiply-accumulates were asked for: choose a smaller budget"
    elif speedup.ratio < _FAIR_PART * saving:
        reason = (
            f"{saving:.2f}x fewer multiply-accumulates gave {speedup.ratio:.2f}x: what is left is moving memory and "
            "fixed cost per layer; --remove-branches or a smaller input helps more than narrower layers"
        )
    else:
        reason = f"{saving:.2f}x fewer multiply-accumulates do not suffice: choose a smaller budget"
    raise BudgetError(f"{speedup.ratio:.2f}x the dense speed measured, --require-speedup {least:g} asked; {reason}")
