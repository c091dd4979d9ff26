"""The local function of SparseConv: weights put back in their places, then a plain convolution.

Everything but the convolution depends on constants alone, so ONNX Runtime works it out once, at load: without our
library the file runs as fast as the dense network (ONNX Runtime 1.31.1 leaves Conv and its activation, fused, in its
own layout).
"""

from onnx import FunctionProto

from exporters import opset
from exporters.bodies import function_of

__all__ = ["sparse_activation", "sparse_conv_body"]

_CONV = (
    "Conv<kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads, "
    "dilations: ints = @dilations>"
)

_ACTIVATIONS = {
    "none": ["Y = Identity(y)"],
    "relu": ["Y = Relu(y)"],
    "clip": [
        "low = Constant<value_float: float = @lower>()",
        "high = Constant<value_float: float = @upper>()",
        "Y = Clip(y, low, high)",
    ],
}


def sparse_activation(lower: float, upper: float) -> str:
    """Returns none, relu or clip: what a clamp is, and the overload of its function."""
    if upper < opset.FLOAT_MAX or lower not in (0.0, -opset.FLOAT_MAX):
        return "clip"
    return "relu" if lower == 0.0 else "none"


def sparse_conv_body(activation: str, onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the SparseConv function for one of the activations of `sparse_activation`.

    The n-th row that exists takes column n of W behind a column of zeros, which is what all other rows take.
    """
    lines = [
        """
        minus_one = Constant<value_ints=[-1]>()
        zero = Constant<value_ints=[0]>()
        one_column = Constant<value_ints=[-1, 1]>()
        shifts = Constant<value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}>()
        lowest = Constant<value = uint8 {1}>()
        in_front = Constant<value_ints=[0, 1, 0, 0]>()
        taps = Constant<value_ints: ints = @kernel_shape>()
        channel_count = Constant<value_int: int = @in_channels>()
        channels = Reshape(channel_count, minus_one)
        bytes = Reshape(P, one_column)
        shifted = BitShift<direction = "RIGHT">(bytes, shifts)
        bits = BitwiseAnd(shifted, lowest)
        flat = Reshape(bits, minus_one)
        exists = Cast<to=7>(flat)
        number = CumSum(exists, zero)
        columns = Mul(exists, number)
        tap_count = ReduceProd<keepdims=1>(taps)
        row_count = Mul(channels, tap_count)
        column_of = Slice(columns, zero, row_count)
        with_zeros = Pad(W, in_front)
        matrix = Gather<axis=1>(with_zeros, column_of)
        kernels_shape = Concat<axis=0>(minus_one, channels, taps)
        kernels = Reshape(matrix, kernels_shape)
        """,
        f"y = {_CONV}(X, kernels, B)",
        *_ACTIVATIONS[activation],
    ]
    names = [tensor.name for tensor in opset.SPARSE_CONV.inputs]
    return function_of(opset.SPARSE_CONV, activation, names, lines, onnx_opset)
