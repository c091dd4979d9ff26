"""What structured pruning tells of its searches: a line for each, and a record of what is left."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from compressor.costs.macs import count_macs
from compressor.methods.structured_density import count_weights
from compressor.pipeline.structured.state import SearchRecord

__all__ = ["make_record", "search_line", "summary"]


def search_line(record: SearchRecord, number: int, *, of: int, metric: str) -> str:
    """Returns a finished search in one line for people; `metric` is the name of the task's."""
    name = record.names[0] if len(record.names) == 1 else f"of {len(record.names)} layers"
    return (
        f"search {number}/{of}, {record.granularity} {name}: {record.pruned} of {record.units} gone, "
        f"error {record.error_before:.2%} -> {record.error:.2%} (median mask {record.error_median:.2%}), "
        f"{record.evaluations} masks in {record.seconds:.1f} s, val {metric} {record.val_cut:.2%} -> "
        f"{record.val_top1:.2%}{_less(record)}"
    )


def make_record(
    searches: Sequence[SearchRecord], before: nn.Module, after: nn.Module, example: Tensor
) -> dict[str, Any]:  # JSON values
    """Returns the searches, and the convolutions' live weights and multiply-accumulates per image, before and after.

    `live_macs` are those where a weight of 0 in a convolution costs nothing.
    """
    layers = count_weights(after)
    density = {layer.name: layer.density for layer in layers}
    macs = sum(layer.macs * density.get(layer.name, 1.0) for layer in count_macs(after, example).layers)
    return {
        "searches": [asdict(search) for search in searches],
        "convolutions": {
            "weights_before": sum(layer.weights for layer in count_weights(before)),
            "live": sum(layer.live for layer in layers),
            "macs_before": count_macs(before, example).macs,
            "live_macs": macs,
            "layers": [asdict(layer) for layer in layers],
        },
    }


def summary(record: dict[str, Any]) -> str:  # JSON values of `make_record`
    """Returns what is left of the convolutions, where there are any, in one line for people."""
    convolutions = record["convolutions"]
    live, before = convolutions["live"], convolutions["weights_before"]
    searches = record["searches"]
    back = [name for search in searches if not search["kept"] for name in search["names"]]
    given = f"; given back, as the accuracy fell too far: {', '.join(back)}" if back else ""
    less = [
        name for search in searches if search["kept"] and search["pruned"] < search["asked"] for name in search["names"]
    ]
    given += f"; less than asked for, for the same reason: {', '.join(less)}" if less else ""
    weights = f"convolutions: {live} of {before} weights live, {1 - live / before:.1%} gone; " if before else ""
    return (
        f"{weights}"
        f"{convolutions['macs_before'] / 1e6:.2f} -> {convolutions['live_macs'] / 1e6:.2f} M MACs where absent weights "
        f"cost nothing{given}"
    )


def _less(record: SearchRecord) -> str:
    if not record.kept:
        return "; given back"
    return f"; stepped back from {record.asked}" if record.pruned < record.asked else ""
