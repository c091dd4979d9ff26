"""Rates of this machine, measured in a second or two: one small chain of operators per price."""

from compressor.costs.chains import Convolution, best_times_ms, chain, processor
from compressor.costs.rates import Rates

__all__ = ["measure_rates"]

_PIXELS = 28  # 28×28 is the middle of an ImageNet network
_SHORT, _LONG = 1, 5  # the difference of two lengths leaves out starting a run and reordering its input and output


def measure_rates(*, block: int, rounds: int = 20) -> Rates:
    """Returns the prices of ONNX Runtime's processor kernels on one thread.

    Each price is the difference in time of a long and a short chain, less what its operators cost by themselves, by
    the difference in work.

    Args:
        block: channels of the blocked layout, the step of a `Staircase`.
        rounds: runs of each chain, taking turns; the best counts.
    """
    wide, pixels = 128, _PIXELS**2
    ragged, narrow = wide - 1, max(block // 2, 1)
    image = 4  # channels in; as many come out, padded to a block
    # Price → width of the chain, pixels along a side, what repeats, work of that.
    links: dict[str, tuple[int, int, list[Convolution | str], float]] = {
        "operator_us": (16, 1, [Convolution(16)] * 8, 8e3),
        "conv_mac": (wide, _PIXELS, [Convolution(wide), Convolution(wide, 3)], pixels * wide**2 * 10),
        "ragged_mac": (ragged, _PIXELS, [Convolution(ragged), Convolution(ragged, 3)], pixels * ragged**2 * 10),
        "image_mac": (image, 4 * _PIXELS, [Convolution(image, 3)], 16 * pixels * image * block * 9),
        "grouped_mac": (wide, _PIXELS, [Convolution(wide, 3, wide // narrow)], pixels * wide * narrow * 9),
        "depthwise_mac": (wide, _PIXELS, [Convolution(wide, k, wide) for k in (3, 5)], pixels * wide * 34),
        "ragged_depthwise_mac": (ragged, _PIXELS, [Convolution(ragged, k, ragged) for k in (3, 5)],
                                 pixels * ragged * 34),
        "weight": (1024, 1, [Convolution(1024)], 1024**2),
        "activation": (wide, _PIXELS, ["silu"], pixels * wide),
        "move": (wide, _PIXELS, ["scale"], pixels * wide),
    }  # fmt: skip
    models = [
        chain((width, side, side), link * repeats)
        for width, side, link, _ in links.values()
        for repeats in (_SHORT, _LONG)
    ]
    times = best_times_ms(models, rounds=rounds)
    per_link = [(long - short) / (_LONG - _SHORT) for short, long in zip(times[::2], times[1::2], strict=True)]
    operator_ms, prices = 0.0, {}
    for (name, (_, _, link, work)), ms in zip(links.items(), per_link, strict=True):
        # An operator's own cost is a small part of every other link; the guard is for a clock that ticks coarsely.
        own = max(ms - len(link) * operator_ms, 0.1 * ms, 1e-6)
        prices[name] = float(f"{own * 1e6 / work:.4g}")
        operator_ms = operator_ms or own / len(link)
    return Rates(source=processor(), block=block, **prices)
