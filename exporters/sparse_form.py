"""Which form a convolution with zeros in its weights takes in a file, decided by a rule fitted to measurements.

With R of C*kh*kw rows alive, K outputs and P output pixels, one thread, in vector multiply-adds of 16 floats:

    dense    C*kh*kw * K * P/16            sparse    R * (K + GATHER) * ceil(P/16) + COPY * C * P/16 + FIXED

The rule knows the sizes alone, so that a file does not depend on the machine that wrote it.
"""

import dataclasses
import math
from dataclasses import dataclass

from exporters.errors import ExportError

__all__ = ["LEAST_SPEEDUP", "SPARSE_MODES", "LayerForm", "check_mode", "predicted_speedup"]

SPARSE_MODES = ("auto", "always", "never")

LEAST_SPEEDUP = 1.1
"""Below it a layer stays dense: less would be lost again where ONNX Runtime changes between its layouts."""

# Fitted to `tests/benchmarks/sparse_layers.py --fit` on an AVX-512 core: gathering a vector of a row, copying a vector
# of an input plane, and what every call costs.
_GATHER, _COPY, _FIXED = 8.0, 18.0, 5000.0
_LANES = 16


@dataclass(frozen=True)
class LayerForm:
    """What became of one convolution.

    Attributes:
        layer: Its name.
        form: `sparse` (a SparseConv) or `dense` (a Conv).
        kernel: (kh, kw) as it was.
        narrowed: (kh', kw', dilation down, dilation right) of the kernel that took its place; None where it kept its
            own.
        rows: Rows of the lowered feature map that the live weights read.
        all_rows: How many a dense convolution of the (narrowed) kernel reads.
        predicted_speedup: Of a SparseConv over that dense convolution.
        reason: Why it has this form.
    """

    layer: str
    form: str
    kernel: tuple[int, int]
    narrowed: tuple[int, int, int, int] | None
    rows: int
    all_rows: int
    predicted_speedup: float
    reason: str

    def to_json(self) -> dict[str, object]:
        """Plain values, without the layer's name."""
        values = dataclasses.asdict(self)
        del values["layer"]
        return values | {"predicted_speedup": round(self.predicted_speedup, 2)}

    def summary(self) -> str:
        """One line for people."""
        smaller = ""
        if self.narrowed is not None:
            height, width, *dilations = self.narrowed
            smaller = f", kernel {self.kernel[0]}x{self.kernel[1]} became {height}x{width}"
            smaller += f" with dilations {dilations[0]}, {dilations[1]}" if max(dilations) > 1 else ""
        name = "SparseConv" if self.form == "sparse" else "dense Conv"
        return f"{self.layer}: {name}, {self.rows} of {self.all_rows} rows alive{smaller}; {self.reason}"


def predicted_speedup(*, outputs: int, channels: int, rows: int, all_rows: int, pixels: int | None) -> float:
    """Returns how many times faster a SparseConv is than a dense convolution, by the rule above.

    Args:
        outputs: K.
        channels: C.
        rows: R, at least 1.
        all_rows: C*kh*kw.
        pixels: P, of one sample; None where it is not known: many.

    >>> predicted_speedup(outputs=128, channels=128, rows=576, all_rows=1152, pixels=28 * 28) > 1.6
    True
    >>> predicted_speedup(outputs=64, channels=64, rows=288, all_rows=576, pixels=4) > 1.0
    False
    """
    many = 1 << 20
    pixels = many if pixels is None else pixels
    dense = all_rows * outputs * pixels / _LANES
    sparse = rows * (outputs + _GATHER) * math.ceil(pixels / _LANES) + _COPY * channels * pixels / _LANES + _FIXED
    return dense / sparse


def check_mode(mode: str) -> None:
    """Raises ExportError for a name that is not in SPARSE_MODES."""
    if mode not in SPARSE_MODES:
        raise ExportError(f"unknown choice '{mode}' of sparse layers; choose from: {', '.join(SPARSE_MODES)}")
