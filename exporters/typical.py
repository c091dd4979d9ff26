"""Judges int8 files with FBS layers, whose winners may be others than torch's where channels matter alike.

Rounding to 8 bits moves saliencies by a percent or so, and a last winner and a first loser change places. Behind that
the network is another one, and a single image may differ by any amount in a sound file. What is asked instead, on every
way of running the file:

1. Torch with the file's winners imposed differs from it by no more than `TYPICAL_TOLERANCE` on the typical image, the
   median: by rounding alone, which nothing makes larger.
2. The file's winners are nearly as good as torch's: in no layer does the typical image lose more than `MOST_REGRET` of
   what choosing by saliency gains over choosing at random. Layers in front of it have the file's winners there too.
3. Where torch is finite, the file is.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from exporters.comparison import Floats, Opened, Subject, file_outputs, largest_difference, torch_outputs
from exporters.execution import Array
from exporters.winners import LayerWinners, record_winners, winner_outputs

__all__ = ["MOST_REGRET", "TYPICAL_TOLERANCE", "Typical", "is_sound", "typical"]

TYPICAL_TOLERANCE = 0.1
"""Of the image's largest output. Sound files on CIFAR-10 and the digits: 0.004 to 0.024, and 0.07 of a MobileNetV2 that
is right on 26 % of the images. With one layer's kernels, bias, steps or zero point wrong mostly 0.15 to 2."""

MOST_REGRET = 0.05
"""0: the winners are torch's own or as good; 1: as good as drawn at random. Sound files: up to 0.008; with one layer's
saliency weights at the wrong channels 0.02 to 0.26."""

# Of the largest saliency: where channels are more alike than this, rounding chooses among them as it likes.
_LEAST_GAIN = 0.1

_AT_A_TIME = 16  # images that torch runs together


@dataclass(frozen=True)
class Typical:
    """What an int8 file with FBS layers makes of the typical image, on one way of running it.

    Attributes:
        path: `stock` or an instruction set.
        batch: samples at a time.
        compared: samples for which torch is finite.
        error: median of the largest difference from torch with the file's winners, over the sample's largest output.
        largest_error: the largest instead of the median; infinite where the file alone is not finite.
        regret: of the file's winners, the median over samples in the layer where that is largest.
        layer: that layer; None where no layer chooses.
    """

    path: str
    batch: int
    compared: int
    error: float
    largest_error: float
    regret: float
    layer: str | None


def is_sound(judged: Typical, tolerance: float) -> bool:
    """Whether something was compared, and rounding to 8 bits may be all that makes the file differ."""
    near = judged.error <= tolerance and judged.regret <= MOST_REGRET
    return near and judged.compared > 0 and bool(np.isfinite(judged.largest_error))


def typical(
    subject: Subject,
    way: Opened,
    batches: Sequence[tuple[str, Array]],
    expected: Sequence[Sequence[Floats]],
    known: dict[bytes, Typical],
) -> Typical:
    """Returns how far the file is from torch with the same winners.

    Call it with `subject.model` in evaluation mode, without gradients.

    Args:
        subject: The network and the file.
        way: How the file is run.
        batches: What each is, and the batch (N, ...); all of one size.
        expected: torch's outputs for each.
        known: Results by what the file gave, which is the same on most ways; this function adds to it.

    Raises:
        ExportError: the file does not run, or gives outputs of other shapes.
    """
    names = list(winner_outputs(subject.proto))
    runner = way.run_with_winners()
    runs = [
        file_outputs(way.name, runner, batch, answers, more=len(names))
        for batch, answers in zip(batches, expected, strict=True)
    ]
    outputs = [np.concatenate(arrays) for arrays in zip(*runs, strict=True)]
    key = hashlib.sha256(b"".join(array.tobytes() for array in outputs)).digest()
    values = np.concatenate([images for _, images in batches])
    if key not in known:
        known[key] = _judged(subject, values, outputs, names)
    return replace(known[key], path=way.name, batch=len(batches[0][1]))


def _judged(subject: Subject, values: Array, outputs: Sequence[Array], names: Sequence[str]) -> Typical:
    """What all samples say together; path and batch are the caller's to fill in."""
    winners = dict(zip(names, outputs[len(outputs) - len(names) :], strict=True))
    errors, regrets = [], dict[str, list[npt.NDArray[np.float64]]]()
    for chosen in _slices(len(values)):
        imposed = {name: array[chosen] for name, array in winners.items()}
        with record_winners(subject.model, imposed) as layers:
            expected = torch_outputs(subject.model, values[chosen])
        pairs = [
            (a.reshape(len(a), -1), b[chosen].reshape(len(a), -1)) for a, b in zip(expected, outputs, strict=False)
        ]
        finite = np.all([np.isfinite(a).all(axis=1) for a, _ in pairs], axis=0)
        errors.append(np.max([_relative(a[finite], b[finite]) for a, b in pairs], axis=0))
        for name, regret in _regrets(layers, imposed).items():
            regrets.setdefault(name, []).append(regret[finite])
    all_errors = np.concatenate(errors)
    medians = {name: _median(np.concatenate(parts)) for name, parts in regrets.items()}
    layer = max(medians, key=medians.__getitem__, default=None)
    return Typical(
        path="",
        batch=0,
        compared=len(all_errors),
        error=_median(all_errors),
        largest_error=float(all_errors.max(initial=0.0)),
        regret=0.0 if layer is None else medians[layer],
        layer=layer,
    )


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _AT_A_TIME) for start in range(0, count, _AT_A_TIME))


def _median(values: npt.NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _relative(expected: Floats, found: Floats) -> npt.NDArray[np.float64]:
    """(N,): each sample's largest difference over its largest expected output."""
    scale = np.abs(expected).max(axis=1, initial=0.0).astype(np.float64)
    return largest_difference(expected, found) / np.where(scale > 0, scale, 1.0)


def _regrets(
    layers: Mapping[str, LayerWinners], imposed: Mapping[str, npt.NDArray[np.int64]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Layer to (N,): how much of what the best winners have over drawn ones, in saliency, the imposed ones lack."""
    regrets = {}
    for name, winners in imposed.items():
        if name not in layers:
            continue
        saliency = layers[name].saliency.astype(np.float64)
        best, got = (np.take_along_axis(saliency, c, axis=1).sum(axis=1) for c in (layers[name].winners, winners))
        gain = best - winners.shape[1] * saliency.mean(axis=1)
        gain = np.maximum(gain, _LEAST_GAIN * np.abs(saliency).max(axis=1) * winners.shape[1])
        regrets[name] = np.divide(best - got, gain, out=np.zeros_like(gain), where=gain > 0)
    return regrets
