"""What quantisation leaves: how good the network is and what it takes, as values and as a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from compressor import checkpoint
from compressor.quantise import FixedPoint, LayerStorage, Sensitivity, describe

__all__ = ["QuantizedNetwork", "write_quantized"]

_PREDICTOR = ".saliency_weight"  # which winners an image has hangs on them: they always get long words


@dataclass(frozen=True)
class QuantizedNetwork:
    """A fixed-point checkpoint, how good it is and what it takes; accuracies 0 to 1, None without data.

    Attributes:
        path: The checkpoint.
        layers: What each fixed-point tensor takes.
        packed_bytes: All of them packed at their word lengths, everything else as float32.
        file_bytes: The same at the widths that a file stores, 4 or 8 bits.
        float_bytes: All numbers as float32.
        sensitivity: One layer at a time; empty where it was not measured.
        val_before: Of the float network.
        val_direct: Right after quantisation.
        val_top1: After retraining; equal to `val_direct` without.
        test_top1: Evaluated once, at the end.
        metric: What the four are of.
    """

    path: Path
    layers: tuple[LayerStorage, ...]
    packed_bytes: int
    file_bytes: int
    float_bytes: int
    sensitivity: tuple[Sensitivity, ...]
    val_before: float | None
    val_direct: float | None
    val_top1: float | None
    test_top1: float | None
    metric: str = "accuracy"

    def summary(self) -> str:
        """One line for people."""
        predictors = {layer.bits for layer in self.layers if layer.name.endswith(_PREDICTOR)}
        words = sorted({layer.bits for layer in self.layers if not layer.name.endswith(_PREDICTOR)})
        length = f"{words[0]}" if len(words) == 1 else f"{words[0]} to {words[-1]}"
        formats = sorted({layer.q_format for layer in self.layers if layer.q_format is not None})
        named = f" ({', '.join(formats)})" if formats else ""
        named += f", FBS's predictors {max(predictors)} bits," if predictors else ","
        packed, stored = self.float_bytes / self.packed_bytes, self.float_bytes / self.file_bytes
        size = (
            f"{length} bits{named} {self.packed_bytes} bytes packed ({packed:.2f}x fewer than float32), "
            f"{self.file_bytes} in a file ({stored:.2f}x)"
        )
        if self.val_top1 is None:
            return f"{self.path}: {size}; accuracy not measured (no --data)"
        return (
            f"{self.path}: {size}, val {self.metric} {self.val_top1:.2%} (before {self.val_before:.2%}, "
            f"right after quantisation {self.val_direct:.2%}), test {self.metric} {self.test_top1:.2%}"
        )


def write_quantized(
    result: QuantizedNetwork,
    model: nn.Module,
    saved: checkpoint.CompressedCheckpoint,
    fixed: Mapping[str, FixedPoint],
    about: dict[str, Any],
) -> None:
    """Writes the checkpoint, whole or not at all.

    Args:
        result: Names the file.
        model: The network, its weights on their levels.
        saved: The checkpoint it was made from.
        fixed: What the weights are in fixed point.
        about: What else the record says, JSON values.
    """
    record = {
        **about,
        "before": {"val_top1": result.val_before, "record": saved.record},
        "val_direct": result.val_direct,
        "val_top1": result.val_top1,
        "test_top1": result.test_top1,
        "packed_bytes": result.packed_bytes,
        "file_bytes": result.file_bytes,
        "float_bytes": result.float_bytes,
        "storage": [layer.to_json() for layer in result.layers],
        "sensitivity": [entry.to_json() for entry in result.sensitivity],
    }
    state = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
    checkpoint.save(replace(saved, state=state, fixed_point=describe(fixed), record=record), result.path)
