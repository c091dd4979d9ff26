"""The staircase of a machine: time of a convolution against its width, and the step that follows from it.

A width is *efficient* when it does about as many multiply-accumulates per second as the best width near it, and no
larger one is as fast. On blocked kernels the efficient widths are the multiples of the block: everything between runs
as if padded up to the next one, or worse.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import onnx

from compressor.costs.chains import Convolution, best_times_ms, chain, processor
from compressor.errors import CompressorError

__all__ = ["Staircase", "efficient_widths", "measure_staircase", "staircase_from_json", "staircase_to_json", "step_of"]

_LAYERS, _PIXELS = 4, 28  # 28×28 is the middle of an ImageNet network; four layers drown the overhead of a run
_CANDIDATES = (32, 16, 8, 4, 2, 1)
_NOISE = 0.02  # times closer than 2 % count as equal
_NEAR = 32  # widths to compare with, on either side: the largest candidate
_EFFICIENT = 0.95  # of the best width near it; on AVX-512 multiples of 16 reach 0.96 to 1, multiples of 4 at most 0.94


@dataclass(frozen=True)
class Staircase:
    """A measurement.

    Attributes:
        machine: processor, as the operating system names it.
        threads: threads of ONNX Runtime.
        widths: channels of the convolutions, ascending.
        latency_ms: best time of each width.
        step: channels a layer should be a multiple of.
    """

    machine: str
    threads: int
    widths: tuple[int, ...]
    latency_ms: tuple[float, ...]
    step: int


def measure_staircase(
    *, widths: Sequence[int] = tuple(range(64, 129)), threads: int = 1, rounds: int = 15
) -> Staircase:
    """Measures 3×3 convolutions of all widths on ONNX Runtime's processor kernels; a few seconds.

    Widths take turns, round by round, and the best of all rounds counts, so that other work on the machine hits all
    widths alike. One thread is timed by its processor time, which waiting for other work does not add to.
    """
    best = best_times_ms([_chain(width) for width in widths], threads=threads, rounds=rounds)
    latency_ms = tuple(round(ms, 4) for ms in best)
    return Staircase(processor(), threads, tuple(widths), latency_ms, step_of(widths, latency_ms))


def efficient_widths(widths: Sequence[int], latency_ms: Sequence[float]) -> list[int]:
    """Returns the widths that no larger one matches and whose rate, width² / time, is within 5 % of the best near them.

    >>> efficient_widths([112, 120, 127, 128, 129], [6.3, 8.0, 11.1, 8.1, 11.3])
    [112, 128]
    """
    rate = [width * width / ms for width, ms in zip(widths, latency_ms, strict=True)]
    found = []
    for i, (width, own) in enumerate(zip(widths, rate, strict=True)):
        near = max(r for w, r in zip(widths, rate, strict=True) if abs(w - width) <= _NEAR)
        matched = min(latency_ms[i + 1 :], default=float("inf")) * (1 - _NOISE) < latency_ms[i]
        if own >= _EFFICIENT * near and not matched:
            found.append(width)
    return found


def step_of(widths: Sequence[int], latency_ms: Sequence[float]) -> int:
    """Returns the largest step that four out of five efficient widths are multiples of; 1 where there is none."""
    efficient = efficient_widths(widths, latency_ms)
    for step in _CANDIDATES:
        if efficient and sum(width % step == 0 for width in efficient) >= 0.8 * len(efficient):
            return step
    return 1


def staircase_to_json(staircase: Staircase) -> str:
    """Returns a measurement as JSON text."""
    return json.dumps(asdict(staircase))


def staircase_from_json(text: str) -> Staircase:
    """Returns a measurement written by `staircase_to_json`.

    Raises:
        CompressorError: the text is none.
    """
    try:
        data = json.loads(text)
        widths, latency_ms = tuple(map(int, data["widths"])), tuple(map(float, data["latency_ms"]))
        return Staircase(str(data["machine"]), int(data["threads"]), widths, latency_ms, int(data["step"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CompressorError(f"not a profile ({type(error).__name__}: {error}); measure it anew") from error


def _chain(width: int) -> onnx.ModelProto:
    return chain((width, _PIXELS, _PIXELS), [Convolution(width, 3)] * _LAYERS)
