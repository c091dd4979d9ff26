"""The road of `compress inspect` for a network that torch holds."""

import json
from dataclasses import asdict, dataclass

from compressor.costs.coverage import Coverage, coverage
from compressor.costs.macs import ModelCost, count_macs
from compressor.graph import trace
from compressor.pipeline.source import Source, dense_counterpart, open_source
from compressor.plan import plan_from_json

__all__ = ["NetworkReport", "inspect_network"]


@dataclass(frozen=True)
class NetworkReport:
    """A network's layers, what they cost per sample, and what of it can be cut.

    Attributes:
        description: Method, density and accuracy where they are known.
        cost: Layer by layer. Unions of residual branches are measured on random inputs.
        coverage: Channel groups: kept, cut, frozen and why; None where a method is attached to the network.
    """

    description: str
    cost: ModelCost
    coverage: Coverage | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def inspect_network(name: str, *, untrained: bool = False) -> NetworkReport:
    """Returns the report of a checkpoint, or of an architecture with random weights.

    Raises:
        CompressorError: As `open_source`; or the network cannot be traced.
    """
    source = open_source(name, untrained=untrained)
    return NetworkReport(_describe(source), count_macs(source.model, source.example(8)), _coverage(source))


def _describe(source: Source) -> str:
    saved = source.saved
    if saved is None:
        return "untrained"
    accuracy = saved.record.get("test_top1")
    words = [saved.architecture]
    if saved.plan is not None:
        words.append("channels removed")
    if saved.method is not None:
        words.append(f"{saved.method} at density {saved.density:g}")
    if saved.fixed_point is not None:
        bits = sorted({int(entry["bits"]) for entry in saved.fixed_point.values()})
        words.append(f"weights in {' and '.join(map(str, bits))} bits")
    if accuracy is not None:
        words.append(f"test accuracy {accuracy:.2%}")
    return ", ".join(words)


def _coverage(source: Source) -> Coverage | None:
    """Of a network cut once: the dense network's groups and what the plan keeps; else of the network as it is."""
    if source.method is not None:
        return None
    plans = [] if source.saved is None or source.saved.plan is None else source.saved.plan["steps"]
    dense = dense_counterpart(source) if len(plans) == 1 else None
    if dense is None:
        return coverage(trace(source.model, source.example()))
    return coverage(trace(dense, source.example()), plan_from_json(json.dumps(plans[0])))
