"""How fast a machine does each kind of work: the few numbers behind predicted latency.

ONNX Runtime's processor kernels run a convolution at nearly one speed, whatever its shape, as long as its widths suit
the blocked layout; depthwise convolutions, unfused activations and everything else that only moves tensors are a price
per element, and each operator costs a little by itself. Times of one thread, batch 1, float32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from compressor.errors import CompressorError

__all__ = ["BUILT_IN", "Rates", "rates_from_dict"]


@dataclass(frozen=True)
class Rates:
    """Prices of one machine, nanoseconds unless said otherwise.

    Attributes:
        source: where they come from: a target's name (built in) or the processor they were measured on.
        block: channels of the blocked layout; convolutions run as if padded to a multiple of it.
        conv_mac: per multiply-accumulate of a convolution in the blocked layout.
        ragged_mac: the same where a width is no multiple of 4, which leaves the blocked layout.
        image_mac: of a convolution over fewer channels than a block, such as the first one.
        grouped_mac: of a grouped convolution whose groups are not whole blocks wide.
        depthwise_mac: of a depthwise convolution in the blocked layout.
        ragged_depthwise_mac: the same where the width is no multiple of 4.
        weight: per weight of a linear layer, or of a convolution of a single pixel; reading it is the work.
        activation: per element of an activation that is not fused into the convolution before it (SiLU, GELU).
        move: per element that an operator merely moves or scales.
        operator_us: per operator, whatever its size; microseconds.
    """

    source: str
    block: int
    conv_mac: float
    ragged_mac: float
    image_mac: float
    grouped_mac: float
    depthwise_mac: float
    ragged_depthwise_mac: float
    weight: float
    activation: float
    move: float
    operator_us: float


# Target → its rates, where they were measured. ONNX Runtime 1.31.1, one thread of an AMD EPYC (Zen 4): node times in
# its profiler of regnet_y_800mf, efficientnet_b0, mobilenet_v2, mobilenet_v3_large and resnet18, dense and cut by half.
BUILT_IN: Mapping[str, Rates] = {
    "onnxruntime-avx512": Rates(
        source="onnxruntime-avx512",
        block=16,
        conv_mac=0.0195,
        ragged_mac=0.027,
        image_mac=0.0265,
        grouped_mac=0.083,
        depthwise_mac=0.027,
        ragged_depthwise_mac=0.22,
        weight=0.19,
        activation=0.30,
        move=0.15,
        operator_us=3.0,
    )
}


def rates_from_dict(data: Any) -> Rates:  # Any: whatever JSON held
    """Returns rates from their plain values, as `dataclasses.asdict` gives them.

    Raises:
        CompressorError: a value is missing, or no positive number.
    """
    try:
        numbers = {f.name: float(data[f.name]) for f in fields(Rates) if f.name not in ("source", "block")}
        if not all(math.isfinite(number) and number > 0 for number in numbers.values()) or int(data["block"]) < 1:
            raise ValueError("rates are positive numbers")
        return Rates(source=str(data["source"]), block=int(data["block"]), **numbers)
    except (ValueError, KeyError, TypeError) as error:
        raise CompressorError(f"no rates of a machine ({type(error).__name__}: {error}); measure it anew") from error
