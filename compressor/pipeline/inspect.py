"""The road of `compress inspect` for a network that torch holds."""

from dataclasses import asdict, dataclass

from compressor.costs.macs import ModelCost, count_macs
from compressor.pipeline.source import open_source

__all__ = ["NetworkReport", "inspect_network"]


@dataclass(frozen=True)
class NetworkReport:
    """A network's layers and what they cost per sample.

    Attributes:
        description: Method, density and accuracy where they are known.
        cost: Layer by layer. Unions of residual branches are measured on random inputs.
    """

    description: str
    cost: ModelCost

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def inspect_network(name: str, *, untrained: bool = False) -> NetworkReport:
    """Returns the report of a checkpoint, or of an architecture with random weights.

    Raises:
        CompressorError: As `open_source`; or the network cannot be traced.
    """
    source = open_source(name, untrained=untrained)
    saved = source.saved
    if saved is None:
        description = "untrained"
    else:
        accuracy = saved.record.get("test_top1")
        description = saved.architecture
        if saved.method is not None:
            description += f", {saved.method} at density {saved.density:g}"
        if accuracy is not None:
            description += f", test accuracy {accuracy:.2%}"
    return NetworkReport(description, count_macs(source.model, source.example(8)))
