"""What pruning leaves: how good and how large the network is at every epoch, as values and as files."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from compressor import checkpoint
from compressor.costs.macs import ModelCost
from compressor.data.files import whole_file
from compressor.methods.fbs import FBS
from compressor.pipeline.train import command_line
from compressor.train import EpochRecord

__all__ = ["CurvePoint", "PrunedNetwork", "make_curve", "write_pruned"]


@dataclass(frozen=True)
class CurvePoint:
    """One epoch of the density schedule; accuracies 0 to 1, multiply-accumulates per image.

    Attributes:
        epoch: counts from 1 over the whole run.
        density: of this epoch's training and validation.
        macs: winners and measured unions, see `compressor.costs.macs`; of the stage's last weights.
        saving: dense MACs / macs.
    """

    epoch: int
    density: float
    train_loss: float
    val_loss: float
    val_top1: float
    macs: float
    effective_macs: float
    paper_macs: float
    saving: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned checkpoint, how good it is and what it costs.

    Attributes:
        path: the checkpoint; the curve lies beside it as `.csv`.
        curve: one point per epoch.
        kept_epoch: whose weights the checkpoint has, counts from 1.
        cost: of the kept weights at the final density.
        dense_val_top1: of the network it started from.
        dense_test_top1: as its checkpoint says; None where it does not.
        dense_macs: of the same network.
        not_pruned: convolutions that stayed dense, with the reason.
        metric: what the values above are of.
    """

    path: Path
    density: float
    curve: tuple[CurvePoint, ...]
    kept_epoch: int
    val_top1: float
    test_top1: float
    cost: ModelCost
    dense_val_top1: float
    dense_test_top1: float | None
    dense_macs: float
    not_pruned: dict[str, str]
    metric: str = "accuracy"

    def summary(self) -> str:
        """One line for people."""
        before = "" if self.dense_test_top1 is None else f" (dense {self.dense_test_top1:.2%})"
        return (
            f"{self.path}: density {self.density:g}, epoch {self.kept_epoch} of {len(self.curve)}, "
            f"val {self.metric} {self.val_top1:.2%} (dense {self.dense_val_top1:.2%}), "
            f"test {self.metric} {self.test_top1:.2%}{before}, "
            f"{self.cost.macs / 1e6:.2f} M MACs ({self.dense_macs / self.cost.macs:.2f}x fewer)"
        )


def make_curve(
    epochs: Sequence[EpochRecord],
    densities: Sequence[float],
    costs: dict[float, ModelCost],
    dense_macs: float,
) -> tuple[CurvePoint, ...]:
    """Returns one point per epoch, in order.

    Args:
        epochs: what training said of each.
        densities: of each.
        costs: of every density that occurs.
        dense_macs: of the network before.
    """
    return tuple(
        CurvePoint(
            epoch=index,
            density=density,
            train_loss=record.train_loss,
            val_loss=record.val_loss,
            val_top1=record.val_top1,
            macs=costs[density].macs,
            effective_macs=costs[density].effective_macs,
            paper_macs=costs[density].paper_macs,
            saving=dense_macs / costs[density].macs,
            lr=record.lr,
            seconds=record.seconds,
        )
        for index, (record, density) in enumerate(zip(epochs, densities, strict=True), start=1)
    )


def write_pruned(
    result: PrunedNetwork,
    model: nn.Module,
    dense: checkpoint.CompressedCheckpoint,
    fbs: FBS,
    about: dict[str, Any],
) -> None:
    """Writes the curve and then the checkpoint, each whole or not at all.

    Args:
        result: names the files.
        model: the network, with FBS layers.
        dense: the checkpoint it was made from.
        fbs: the method with its settings.
        about: what else the record says, JSON values.
    """
    curve = [asdict(point) for point in result.curve]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(curve[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    with whole_file(result.path.with_suffix(".csv")) as file:
        file.write(text.getvalue().encode())
    record = {
        **about,
        "command": command_line(),
        "before": {
            "val_top1": result.dense_val_top1,
            "test_top1": result.dense_test_top1,
            "macs": result.dense_macs,
        },
        "kept_epoch": result.kept_epoch,
        "val_top1": result.val_top1,
        "test_top1": result.test_top1,
        "macs": result.cost.macs,
        "effective_macs": result.cost.effective_macs,
        "paper_macs": result.cost.paper_macs,
        "parameters": result.cost.parameters,
        "curve": curve,
        "not_pruned": result.not_pruned,
        "metric": result.metric,
    }
    saved = replace(
        dense,
        state={name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()},
        method="fbs",
        method_settings=fbs.settings(),
        density=fbs.density,
        record=record,
    )
    checkpoint.save(saved, result.path)
