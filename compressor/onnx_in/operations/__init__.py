"""What each ONNX op becomes: one rule per op, `RULES` has them all."""

from collections.abc import Callable

from compressor.onnx_in.operations.activations import ACTIVATION_RULES
from compressor.onnx_in.operations.arithmetic import ARITHMETIC_RULES
from compressor.onnx_in.operations.matrices import MATRIX_RULES
from compressor.onnx_in.operations.normalisations import NORMALISATION_RULES
from compressor.onnx_in.operations.parts import PART_RULES
from compressor.onnx_in.operations.pooling import POOLING_RULES
from compressor.onnx_in.operations.reductions import REDUCTION_RULES
from compressor.onnx_in.operations.resizing import RESIZING_RULES
from compressor.onnx_in.operations.shapes import SHAPE_RULES
from compressor.onnx_in.operations.windows import WINDOW_RULES
from compressor.onnx_in.reader import Node, Reader

__all__ = ["RULES", "Rule"]

Rule = Callable[[Reader, Node], None]

RULES: dict[str, Rule] = {
    **WINDOW_RULES,
    **MATRIX_RULES,
    **NORMALISATION_RULES,
    **ACTIVATION_RULES,
    **POOLING_RULES,
    **ARITHMETIC_RULES,
    **REDUCTION_RULES,
    **SHAPE_RULES,
    **PART_RULES,
    **RESIZING_RULES,
}
"""ONNX op → rule that adds its steps. Ops whose inputs are all constant need none: their values are worked out."""
