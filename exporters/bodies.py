"""Local functions in standard ops: what a stock runtime executes for each op of domain `compress`.

Two ways through an FBS layer:

* One sample (static batch 1): the winners' rows and the live columns of the weights are gathered, then
  convolved. Fewer multiplications, but a convolution with computed weights leaves ONNX Runtime's blocked
  layout. Measured on an M-CifarNet-like chain at density 0.5, one thread: 0.5 of the dense time.
* Any batch: every sample has its own winners, so the input planes are put in their places, convolved densely
  with constant weights (which keeps the blocked layout), and the winners' planes are picked out. Measured
  likewise: 1.15 to 1.2 of the dense time.

The bodies work in NCHW between a pair of transposes; ONNX Runtime cancels the pairs of neighbouring layers.
"""

from dataclasses import dataclass

from onnx import FunctionProto, parser

from exporters import opset

__all__ = ["FBSVariant", "fbs_conv_body", "unpack_body"]

_LAST_AXIS = "minus_one = Constant<value_ints=[-1]>()"
_CONV = "Conv<strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations>"

# places[n, c]: where dense channel c lies among the packed ones; if absent, their number (the appended zero).
_PLACES = """
    x_shape = Shape(X)
    first = Constant<value_ints=[0]>()
    last = Constant<value_ints=[3]>()
    samples = Gather(x_shape, first)
    live = Gather(x_shape, last)
    packed_shape = Concat<axis=0>(samples, live)
    dense_shape = Concat<axis=0>(samples, channels)
    rows_of_places = Expand(I, packed_shape)
    absent = Expand(live, dense_shape)
    start = Constant<value_int=0>()
    step = Constant<value_int=1>()
    stop = Squeeze(live)
    order = Range(start, stop, step)
    orders = Expand(order, packed_shape)
    places = ScatterElements<axis=1>(absent, rows_of_places, orders)
"""
_SPREAD = """
    one_zero_plane = Constant<value_ints=[0, 0, 0, 0, 0, 1, 0, 0]>()
    padded = Pad(x, one_zero_plane)
    place_of = Unsqueeze(places, minus_one)
    spread = GatherND<batch_dims=1>(padded, place_of)
"""


@dataclass(frozen=True)
class FBSVariant:
    """The choices in an FBSConv body that an attribute reference cannot express.

    `one_sample`: static batch 1. `dense_input`: I is the constant [[0 .. C-1]]. `all_win`: k = K.
    `activation`: none, relu or clip. `nonnegative`: s cannot be negative (slope 0).
    """

    one_sample: bool
    dense_input: bool
    all_win: bool
    normalize: bool
    post_shift: bool
    activation: str
    nonnegative: bool

    @property
    def overload(self) -> str:
        """The name that tells this body from the others of the same op in one file."""
        words = ["one" if self.one_sample else "any", "dense" if self.dense_input else "packed"]
        words += ["all"] if self.all_win else []
        words += ["normalized"] if self.normalize else []
        words += ["shifted"] if self.post_shift else []
        words += [] if self.nonnegative else ["signed"]
        return "_".join([*words, self.activation])


def fbs_conv_body(variant: FBSVariant) -> FunctionProto:
    """Returns the FBSConv function for `variant`; formula and shapes are those of `opset.FBS_CONV`."""
    lines = [_LAST_AXIS, "x = Transpose<perm=[0, 3, 1, 2]>(X)"]
    if not variant.dense_input:
        lines += ["i = Reshape(I, minus_one)"] if variant.one_sample else [_channels_of("A"), _PLACES]
    lines += _saliency(variant)
    lines += _winners(variant)
    lines += _one_sample(variant) if variant.one_sample else _any_batch(variant)
    lines += _epilogue(variant)
    names = [tensor.name for tensor in opset.FBS_CONV.inputs if variant.post_shift or not tensor.optional]
    return _function(opset.FBS_CONV, variant.overload, names, lines)


def unpack_body() -> FunctionProto:
    """Returns the Unpack function: every dense channel picks its packed plane, or an appended zero plane."""
    lines = [
        _LAST_AXIS,
        "x = Transpose<perm=[0, 3, 1, 2]>(X)",
        "channel_count = Constant<value_int: int = @channels>()",
        "channels = Reshape(channel_count, minus_one)",
        _PLACES,
        _SPREAD,
        "Y = Transpose<perm=[0, 2, 3, 1]>(spread)",
    ]
    return _function(opset.UNPACK, "", [tensor.name for tensor in opset.UNPACK.inputs], lines)


def _channels_of(saliency_weight: str) -> str:
    return f"""
    saliency_shape = Shape({saliency_weight})
    row_axis = Constant<value_ints=[0]>()
    channels = Gather(saliency_shape, row_axis)
    """


def _saliency(variant: FBSVariant) -> list[str]:
    """S (N, K) from the mean absolute value of the live channels."""
    lines = [
        "size = Abs(x)",
        "plane_axes = Constant<value_ints=[2, 3]>()",
        "mean = ReduceMean<keepdims=0>(size, plane_axes)",
    ]
    if variant.dense_input:
        lines += ["raw = Gemm(mean, A, R)"]
    elif variant.one_sample:
        lines += ["live_rows = Gather<axis=0>(A, i)", "raw = Gemm(mean, live_rows, R)"]
    else:
        lines += [
            "one_zero = Constant<value_ints=[0, 0, 0, 1]>()",
            "mean_padded = Pad(mean, one_zero)",
            "mean_spread = GatherElements<axis=1>(mean_padded, places)",
            "raw = Gemm(mean_spread, A, R)",
        ]
    if not variant.normalize:
        return [*lines, "s = LeakyRelu<alpha: float = @saliency_slope>(raw)"]
    return [
        *lines,
        "leaky = LeakyRelu<alpha: float = @saliency_slope>(raw)",
        "sum_axis = Constant<value_ints=[1]>()",
        "total = ReduceSum<keepdims=1>(leaky, sum_axis)",
        "outputs = Size(R)",
        "outputs_float = Cast<to=1>(outputs)",
        "zero = Constant<value_float=0.0>()",
        "no_total = Equal(total, zero)",
        "divisor = Where(no_total, outputs_float, total)",
        "factor = Div(outputs_float, divisor)",
        "s = Mul(leaky, factor)",
    ]


def _winners(variant: FBSVariant) -> list[str]:
    """J (N, k) ascending and p (N, k, 1, 1) = s[J]; ONNX's TopK takes the lower index of equals."""
    if variant.all_win:
        lines = [
            "s_shape = Shape(s)",
            "from_zero = Constant<value_int=0>()",
            "by_one = Constant<value_int=1>()",
            "to_all = Size(R)",
            "all_outputs = Range(from_zero, to_all, by_one)",
            "J = Expand(all_outputs, s_shape)",
            "won = Identity(s)",
        ]
    else:
        lines = [
            "count = Constant<value_int: int = @winners>()",
            "k = Reshape(count, minus_one)",
            "best, by_saliency = TopK<axis=1>(s, k)",
            "J, position = TopK<axis=1, largest=0>(by_saliency, k)",
            "won = GatherElements<axis=1>(s, J)",
        ]
    return [*lines, "behind = Constant<value_ints=[2, 3]>()", "p = Unsqueeze(won, behind)"]


def _one_sample(variant: FBSVariant) -> list[str]:
    """Product (1, k, H', W') before scaling, from gathered weights."""
    lines = [] if variant.all_win else ["j = Reshape(J, minus_one)", "bias = Gather(B, j)"]
    bias = "B" if variant.all_win else "bias"
    if variant.dense_input:
        weight = "W" if variant.all_win else "chosen"
        lines += [] if variant.all_win else ["chosen = Gather<axis=0>(W, j)"]
    elif variant.all_win:
        weight = "chosen"
        lines += ["chosen = Gather<axis=1>(W, i)"]
    else:
        # One gather over the K*C kernels at once copies less than a gather of rows followed by one of
        # columns.
        weight = "chosen"
        lines += [
            "w_shape = Shape(W)",
            "column_axis = Constant<value_ints=[1]>()",
            "row_length = Gather(w_shape, column_axis)",
            "row_start = Mul(j, row_length)",
            "row_starts = Unsqueeze(row_start, column_axis)",
            "kernel_of = Add(row_starts, i)",
            "tap_axes = Constant<value_ints=[2, 3]>()",
            "taps = Gather(w_shape, tap_axes)",
            "kernels_shape = Concat<axis=0>(minus_one, taps)",
            "kernels = Reshape(W, kernels_shape)",
            "chosen = Gather<axis=0>(kernels, kernel_of)",
        ]
    return [*lines, f"product = {_CONV}(x, {weight}, {bias})"]


def _any_batch(variant: FBSVariant) -> list[str]:
    """Product (N, K, H', W') of the dense convolution; the winners are picked in the epilogue."""
    if variant.dense_input:
        return [f"product = {_CONV}(x, W, B)"]
    return [_SPREAD, f"product = {_CONV}(spread, W, B)"]


def _epilogue(variant: FBSVariant) -> list[str]:
    """Y = clamp(p * product + D), packed; with s >= 0 and no D, ReLU may come first and joins the Conv."""
    early_relu = variant.activation == "relu" and variant.nonnegative and not variant.post_shift
    lines = ["rectified = Relu(product)"] if early_relu else []
    value = "rectified" if early_relu else "product"
    if not variant.one_sample and not variant.all_win:
        lines += [
            "winner_of = Unsqueeze(J, minus_one)",
            f"picked = GatherND<batch_dims=1>({value}, winner_of)",
        ]
        value = "picked"
    lines += [f"scaled = Mul({value}, p)"]
    value = "scaled"
    if variant.post_shift:
        lines += [
            "shift = Gather(D, J)",
            "shift_planes = Unsqueeze(shift, behind)",
            "shifted = Add(scaled, shift_planes)",
        ]
        value = "shifted"
    if variant.activation == "relu" and not early_relu:
        lines += [f"clamped = Relu({value})"]
        value = "clamped"
    if variant.activation == "clip":
        lines += [
            "low = Constant<value_float: float = @lower>()",
            "high = Constant<value_float: float = @upper>()",
            f"clamped = Clip({value}, low, high)",
        ]
        value = "clamped"
    return [*lines, f"Y = Transpose<perm=[0, 2, 3, 1]>({value})"]


def _function(op: opset.Op, overload: str, inputs: list[str], lines: list[str]) -> FunctionProto:
    header = f'domain: "{opset.DOMAIN}"' + (f', overload: "{overload}"' if overload else "")
    attributes = ", ".join(attribute.name for attribute in op.attributes)
    outputs = ", ".join(tensor.name for tensor in op.outputs)
    body = "\n".join(lines)
    text = (
        f'<{header}, opset_import: ["": {opset.ONNX_OPSET}]>\n'
        f"{op.name} <{attributes}> ({', '.join(inputs)}) => ({outputs}) {{\n{body}\n}}"
    )
    return parser.parse_function(text)
