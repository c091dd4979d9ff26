"""Which form a convolution with zeros in its weights takes in a file, decided by a rule fitted to measurements.

With R of C*kh*kw rows alive, K outputs (K' in whole vectors), P output and Q input pixels, one thread, in vector
multiply-adds of 16 floats:

    dense    C*kh*kw * K' * P/16           sparse    R * (K + GATHER) * ceil(P/16) + C * (COPY * Q/16 + PLANE) + CALL

The rule knows the sizes alone, so that a file does not depend on the machine that wrote it.
"""

import dataclasses
import math
from dataclasses import dataclass

from exporters.errors import ExportError

__all__ = ["LEAST_SPEEDUP", "SPARSE_MODES", "LayerForm", "check_mode", "predicted_speedup"]

SPARSE_MODES = ("auto", "always", "never", "off")
"""By the rule, every layer with an absent row, smaller dense kernels at most, or zeros are weights like others."""

LEAST_SPEEDUP = 1.1
"""Below it a layer stays dense: less would be lost again where ONNX Runtime changes between its layouts."""

# Fitted to 17 layers (1x1 to 5x5, 3 to 256 channels, planes of 2 to 56, a third to all of the rows alive) in the way of
# tests/benchmarks/sparse_layers.py on an AVX-512 core. In a few of them the rule keeps a layer dense that would have
# gained up to a third; in none does it choose a SparseConv that loses.
_GATHER, _COPY, _PLANE, _CALL = 6.0, 14.0, 60.0, 3000.0
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


def predicted_speedup(
    *, outputs: int, channels: int, rows: int, all_rows: int, pixels: int | None, stride_area: int = 1
) -> float:
    """Returns how many times faster a SparseConv is than a dense convolution, by the rule above.

    Args:
        outputs: K.
        channels: C.
        rows: R, at least 1.
        all_rows: C*kh*kw.
        pixels: P, of one sample; None where it is not known: many.
        stride_area: Input pixels for each output pixel, Q / P.

    >>> predicted_speedup(outputs=128, channels=128, rows=576, all_rows=1152, pixels=28 * 28) > 1.6
    True
    >>> predicted_speedup(outputs=64, channels=64, rows=288, all_rows=576, pixels=4) > 1.0
    False
    """
    many = 1 << 20
    pixels = many if pixels is None else pixels
    dense = all_rows * math.ceil(outputs / _LANES) * pixels
    product = rows * (outputs + _GATHER) * math.ceil(pixels / _LANES)
    copies = channels * (_COPY * pixels * stride_area / _LANES + _PLANE)
    return dense / (product + copies + _CALL)


def check_mode(mode: str) -> None:
    """Raises ExportError for a name that is not in SPARSE_MODES."""
    if mode not in SPARSE_MODES:
        raise ExportError(f"unknown choice '{mode}' of sparse layers; choose from: {', '.join(SPARSE_MODES)}")
