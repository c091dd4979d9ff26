"""What RBP (reconstruction) keeps beside the output between two layers, and what it says of each."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from compressor.costs.widths import Counts
from compressor.graph.cut import Keep
from compressor.pipeline.stages import load_stage, save_stage
from compressor.train import resume_path

__all__ = ["LayerRecord", "RBPState", "histogram", "layer_path", "load_rbp_state", "save_rbp_state", "state_path"]

_VERSION = 1
_BINS = 20


@dataclass(frozen=True)
class LayerRecord:
    """One layer that is done; metrics 0 to 1.

    Attributes:
        group: name of the channel group.
        units: there were.
        kept: that stay.
        redundant: whose drop rate is above the threshold.
        undecided: part of the units with a rate between 0.2 and 0.8; near 0 where the rates are bimodal.
        histogram: units per twentieth of the rates' range, 0 to 1.
        lam: factor of the divergence at the end.
        train_loss: mean over the last epoch, divergence included.
        val_noise: metric of the mean network before the cut.
        val_top1: after the cut, with batch norm measured anew.
        macs: multiply-accumulates per image of the whole network after it.
        macs_before: of the network before the run.
        seconds: training, cut and evaluation.
    """

    group: str
    units: int
    kept: int
    redundant: int
    undecided: float
    histogram: tuple[int, ...]
    lam: float
    train_loss: float
    val_noise: float
    val_top1: float
    macs: float
    macs_before: float
    seconds: float


def histogram(rates: Tensor) -> tuple[tuple[int, ...], float]:
    """Returns (units per twentieth of 0 to 1, part of them between 0.2 and 0.8)."""
    counts = torch.histc(rates.float(), bins=_BINS, min=0.0, max=1.0).long().tolist()
    undecided = ((rates > 0.2) & (rates < 0.8)).double().mean().item()
    return tuple(counts), undecided


@dataclass(frozen=True, eq=False)
class RBPState:
    """A run between two layers; with its task it decides everything that follows.

    Attributes:
        task: data, start, method and settings, as text; a run goes on only with the same.
        precision: what the run computes in, '32' or 'bf16'.
        scores: (units,) what the budget is shared out by; of the network before the run.
        shares: (groups,) units that each group is to keep; empty until the budget is shared out.
        keep: (units,) True where a unit is still there; of the network before the run.
        done: steps of the chain that are behind.
        layers: a record of each that was trained.
        model: state dict of the network as it is now, channels removed.
    """

    task: str
    precision: Literal["32", "bf16"]
    scores: Tensor
    shares: Counts
    keep: Keep
    done: int
    layers: tuple[LayerRecord, ...]
    model: dict[str, Tensor]


def state_path(output: Path) -> Path:
    """Returns where the state between layers is kept: `slim.pt` -> `slim.pt.rbp.resume`."""
    return resume_path(output.with_name(f"{output.name}.rbp"))


def layer_path(output: Path, number: int) -> Path:
    """Returns the name that layer `number` keeps its own state under, epoch by epoch; 0 shares the budget out."""
    return output.with_name(f"{output.name}.rbp{number}")


def save_rbp_state(path: Path, state: RBPState) -> None:
    """Writes the state, whole or not at all."""
    values = {
        **vars(state),
        "keep": torch.from_numpy(state.keep.copy()),
        "shares": torch.from_numpy(state.shares.copy()),
        "layers": [{**asdict(layer), "histogram": list(layer.histogram)} for layer in state.layers],
    }
    save_stage(path, values, version=_VERSION)


def load_rbp_state(path: Path, task: str) -> RBPState:
    """Returns the state of a run with the same task.

    Raises:
        CheckpointError: there is none, it cannot be read, or it belongs to another run.
    """
    values = load_stage(path, task=task, version=_VERSION)
    values["keep"] = np.asarray(values["keep"].numpy(), dtype=np.bool_)
    values["shares"] = np.asarray(values["shares"].numpy(), dtype=np.int64)
    values["layers"] = tuple(
        LayerRecord(**{**layer, "histogram": tuple(layer["histogram"])}) for layer in values["layers"]
    )
    return RBPState(**values)
