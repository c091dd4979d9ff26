"""Local functions in standard ops: what a stock runtime executes for each op of domain `compress`.

The winners' rows and the live columns of the weights are gathered, then convolved: fewer multiplications, but a
convolution with computed weights leaves ONNX Runtime's blocked layout. Three ways to bring the samples there:

* One sample (static batch 1): directly.
* Any other batch: a Loop over the samples, each with its own winners.
* Any other batch, all channels in and out: one dense convolution with constant weights.

Measured at density 0.5 in ONNX Runtime 1.31.1 on one thread of an AMD EPYC, before predictors were read whole, as
fractions of the dense network's time (README of `runtime`): 0.4 to 0.7 for one sample, but 1.5 for MobileNetV2, whose
layers are small; 0.55 to 1.2 with the loop.
Slowest of these is VGG-16 on 32x32 images, where half of the weights are gathered for planes of a few pixels. A dense
convolution of unpacked planes whose winners are then picked out, the other way to serve any batch, took 1.1 to 1.2 on
M-CifarNet, where the loop takes 0.6.

The bodies work in NCHW between a pair of transposes; ONNX Runtime cancels the pairs of neighbouring layers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from onnx import FunctionProto, NodeProto, helper, parser

from exporters import opset

__all__ = [
    "UNPACK_ADD_ACTIVATIONS",
    "FBSVariant",
    "SumVariant",
    "depthwise_conv_body",
    "fbs_conv_body",
    "fbs_conv_depthwise_body",
    "fbs_conv_int8_body",
    "function_of",
    "linear_body",
    "max_pool_nhwc_body",
    "to_nhwc_body",
    "unpack_add_body",
    "unpack_add_int8_body",
    "unpack_body",
    "unpack_int8_body",
]

_CONV = "Conv<strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations>"
_PLANE_AXES = "plane_axes = Constant<value_ints=[2, 3]>()"
_MINUS_ONE = "minus_one = Constant<value_ints=[-1]>()"
_TO_NCHW = "planes = Transpose<perm=[0, 3, 1, 2]>(X)"
_TO_NHWC = "Y = Transpose<perm=[0, 2, 3, 1]>(y)"
_AVERAGE_TO_NCHW = """
    pixel_axes = Constant<value_ints=[1, 2]>()
    means = ReduceMean<keepdims=1>(X, pixel_axes)
    planes = Transpose<perm=[0, 3, 1, 2]>(means)
"""


def _scalar_byte(name: str) -> str:
    """The attribute `name` as a byte of that name."""
    return f"{name}_int = Constant<value_int: int = @{name}>() {name} = Cast<to=2>({name}_int)"


def _scale(name: str) -> str:
    """The attributes of a scale as what QuantizeLinear and DequantizeLinear read."""
    return f"{name}_step = Constant<value_float: float = @{name}_step>() {_scalar_byte(f'{name}_zero')}"


# Transposes are on bytes: ONNX Runtime 1.31 moves pairs of Q and DQ through those of floats, and ends the process where
# a Loop reads the result.
def _from_bytes(scale: str) -> str:
    """What _TO_NCHW does, of bytes X with the scale of that name."""
    return f"""
        {_scale(scale)}
        byte_planes = Transpose<perm=[0, 3, 1, 2]>(X)
        planes = DequantizeLinear(byte_planes, {scale}_step, {scale}_zero)
    """


def _to_bytes(scale: str) -> str:
    """What _TO_NHWC does, for bytes Y with the scale of that name."""
    return f"""
        {_scale(scale)}
        y_bytes = QuantizeLinear(y, {scale}_step, {scale}_zero)
        Y = Transpose<perm=[0, 2, 3, 1]>(y_bytes)
    """


_KERNEL_OF_BYTES = """
    kernel_numbers = Cast<to=1>(W)
    steps_shape = Constant<value_ints=[-1, 1, 1, 1]>()
    kernel_steps = Reshape(P, steps_shape)
    kernel_floats = Mul(kernel_numbers, kernel_steps)
"""
_PREDICTOR_OF_BYTES = """
    predictor_numbers = Cast<to=1>(A)
    predictor = Mul(predictor_numbers, Q)
"""

_SAMPLES = """
    x_shape = Shape(X)
    first = Constant<value_ints=[0]>()
    samples = Gather(x_shape, first)
"""
_ALL_ROWS_OF_I = """
    last = Constant<value_ints=[3]>()
    live = Gather(x_shape, last)
    packed_shape = Concat<axis=0>(samples, live)
    rows = Expand(I, packed_shape)
"""


@dataclass(frozen=True)
class FBSVariant:
    """The choices in an FBSConv body that an attribute reference cannot express.

    `one_sample`: static batch 1. `dense_input`: I is the constant [[0 .. C-1]]. `all_win`: k = K.
    `activation`: none, relu or clip. `nonnegative`: s cannot be negative (slope 0). `pointwise`: 1x1 kernels.
    `blocks`: winner_block > 1. `left_out`: there is E. `measured`: there is U. `measures`: there is M. `half`: A is
    float16. `half_weight`: W is. `byte`: A is int8, with Q. `byte_weight`: W is, with P. `weight`, `rest`: the tensors
    that hold W and E as floats.
    """

    one_sample: bool
    dense_input: bool
    all_win: bool
    normalize: bool
    post_shift: bool
    activation: str
    nonnegative: bool
    pointwise: bool = False
    blocks: bool = False
    left_out: bool = False
    measured: bool = False
    measures: bool = False
    half: bool = False
    half_weight: bool = False
    byte: bool = False
    byte_weight: bool = False
    weight: str = "W"
    rest: str = "E"

    @property
    def overload(self) -> str:
        """The name that tells this body from the others of the same op in one file."""
        return _overload(
            "one" if self.one_sample else "any",
            "dense" if self.dense_input else "packed",
            "all" * self.all_win,
            "pointwise" * (self.pointwise and not self.dense_input),
            "normalized" * self.normalize,
            "shifted" * self.post_shift,
            "whole" * self.left_out,
            "measured" * self.measured,
            "measures" * self.measures,
            "half" * self.half,
            "light" * self.half_weight,
            "byte" * self.byte,
            "tiny" * self.byte_weight,
            "signed" * (not self.nonnegative),
            "blocks" * (self.blocks and not self.all_win),
            self.activation,
        )

    @property
    def predictor(self) -> str:
        """The tensor that holds A as floats."""
        return "predictor" if self.half or self.byte else "A"

    @property
    def means(self) -> str:
        """The tensor that holds U; without it, one of another name where U is an input that no node gives."""
        return "U" if self.measured or not (self.byte or self.byte_weight) else "own_means"


def _overload(*words: str) -> str:
    """The name made of those words that are not empty."""
    return "_".join(filter(None, words))


def fbs_conv_body(variant: FBSVariant, onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the FBSConv function for `variant`; formula and shapes are those of `opset.FBS_CONV`.

    The standard ops in it are those of `onnx_opset`, which must be the model's own.
    """
    lines = [_MINUS_ONE, _TO_NCHW]
    if variant.half_weight or variant.byte_weight:
        variant = replace(variant, weight="kernel_floats")
        lines += [_KERNEL_OF_BYTES if variant.byte_weight else "kernel_floats = Cast<to=1>(W)"]
    lines += [*_planes(variant), _TO_NHWC]
    lines += _mean_size("y", "M") if variant.measures else []
    names = _inputs(opset.FBS_CONV, variant)
    return function_of(opset.FBS_CONV, variant.overload, names, lines, onnx_opset, optional_outputs=variant.measures)


def fbs_conv_int8_body(variant: FBSVariant, onnx_opset: int = opset.ONNX_OPSET, *, scale: str = "y") -> FunctionProto:
    """Returns the FBSConvInt8 function for `variant`: the one of FBSConv between DequantizeLinear and QuantizeLinear.

    It sums in float32 what the op sums exactly, so bytes of Y may differ by one step where a value lies halfway between
    two, and winners where saliencies are tied but for rounding. `scale`: what the attributes of Y's begin with.
    """
    variant = replace(variant, weight="WQ", rest="left_out_floats")
    lines = [_MINUS_ONE, _from_bytes("x"), "WQ = DequantizeLinear<axis=0>(W, S)"]
    if variant.left_out:
        lines += ["left_out_numbers = Cast<to=1>(E)", "left_out_floats = Mul(left_out_numbers, x_step)"]
    lines += [*_planes(variant), _to_bytes(scale)]
    names = _inputs(opset.FBS_CONV_INT8, variant)
    return function_of(opset.FBS_CONV_INT8, variant.overload, names, lines, onnx_opset)


def _planes(variant: FBSVariant) -> list[str]:
    """From `planes` (N, Cx, H, W) to `y` (N, k, H', W') and J."""
    lines = _constants(variant)
    if variant.one_sample or (variant.dense_input and variant.all_win):
        lines += [] if variant.dense_input else ["i = Reshape(I, minus_one)"]
        return [*lines, *_layer(variant, x="planes", means=variant.means, winners="J", y="y")]
    return [*lines, *_loop(variant)]


def _inputs(op: opset.Op, variant: FBSVariant) -> list[str]:
    names = [tensor.name for tensor in op.inputs]
    optional = {"D": variant.post_shift, "E": variant.left_out, "U": variant.measured}
    optional |= {"P": variant.byte_weight, "Q": variant.byte}
    while not optional.get(names[-1], True):
        names.pop()
    return names


def depthwise_conv_body(
    activation: str,
    onnx_opset: int = opset.ONNX_OPSET,
    *,
    of_layer: bool = False,
    of_bytes: bool = False,
    measures: bool = False,
) -> FunctionProto:
    """Returns the DepthwiseConv function for an activation (none, relu or clip), which names its overload.

    All C planes are convolved, with constant weights: ONNX Runtime has kernels of its own for that, and none for
    weights that are computed. Then the channels that exist are picked out.

    Args:
        activation: none, relu or clip.
        onnx_opset: The model's own.
        of_layer: For FBSConvDepthwise, of whose channels one exists at least: what stands for the others is not zero.
        of_bytes: For FBSConvDepthwiseInt8: X, W and Y are bytes, and P holds the steps of W.
        measures: Its nodes also make the M of FBSConvDepthwise.
    """
    clamp = {"none": "{y} = Identity({x})", "relu": "{y} = Relu({x})", "clip": "{y} = Clip({x}, low, high)"}[activation]
    weight = "kernel_floats" if of_bytes else "W"
    lines = [
        *((_KERNEL_OF_BYTES,) if of_bytes else ()),
        "low = Constant<value_float: float = @lower>()",
        "high = Constant<value_float: float = @upper>()",
        _PLANE_AXES,
        *_spread(matters=not of_layer),
        f"convolved = {_CONV.removesuffix('>')}, group: int = @channels>(spread, {weight}, B)",
        clamp.format(x="convolved", y="whole"),
        clamp.format(x="B", y="of_zeros"),
        "channel_of = Unsqueeze(rows, minus_one)",
        "picked = GatherND<batch_dims=1>(whole, channel_of)",
        "rests = Gather(of_zeros, rows)",
        "rest = Unsqueeze(rests, plane_axes)",
        "y = Sub(picked, rest)",
        _to_bytes("y") if of_bytes else _TO_NHWC,
        *(_mean_size("picked", "M") if measures else ()),
    ]
    if of_bytes:
        lines = [line.replace(_TO_NCHW, _from_bytes("between")) for line in lines]
    names = [tensor.name for tensor in opset.DEPTHWISE_CONV.inputs]
    return function_of(opset.DEPTHWISE_CONV, activation, names, lines, onnx_opset)


def fbs_conv_depthwise_body(
    variant: FBSVariant, activation: str, channels: int, onnx_opset: int = opset.ONNX_OPSET, *, int8: bool = False
) -> FunctionProto:
    """Returns the FBSConvDepthwise function: the nodes of FBSConv's, then those of DepthwiseConv's under other names.

    It calls neither, since ONNX Runtime 1.32 does not find a function with an overload that a function calls.

    Args:
        variant: Of the FBSConv.
        activation: Of the DepthwiseConv: none, relu or clip.
        channels: K, which a node says by the shape of V, and Conv takes as an attribute.
        onnx_opset: The model's own.
        int8: The FBSConvDepthwiseInt8 function instead: the nodes of FBSConvInt8's, then as above, on bytes.
    """
    if int8:
        op, layer = opset.FBS_CONV_DEPTHWISE_INT8, fbs_conv_int8_body(variant, onnx_opset, scale="between")
    else:
        op, layer = opset.FBS_CONV_DEPTHWISE, fbs_conv_body(replace(variant, measures=False), onnx_opset)
    overload, inputs, measures = f"{variant.overload}_{activation}_{channels}", _inputs(op, variant), variant.measures
    result = function_of(op, overload, inputs, [], onnx_opset, optional_outputs=measures)
    result.node.extend(layer.node)
    result.node[-1].output[0] = "T"
    names = {"X": "T", "I": "J", "W": "V", "P": "G", "B": "F" if int8 else "S", "Y": "Y", "M": "M"}
    nodes = depthwise_conv_body(activation, onnx_opset, of_layer=True, of_bytes=int8, measures=measures).node
    _rename(nodes, names, "depthwise_")
    own = {attribute.name for attribute in op.attributes}
    for node in nodes:
        for attribute in node.attribute:
            if attribute.ref_attr_name == "channels":
                attribute.CopyFrom(helper.make_attribute(attribute.name, channels))
            elif (name := f"depthwise_{attribute.ref_attr_name}") in own:
                attribute.ref_attr_name = name
        result.node.append(node)
    return result


def to_nhwc_body(onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the ToNHWC function: a Transpose."""
    return function_of(opset.TO_NHWC, "", ["X"], ["Y = Transpose<perm=[0, 2, 3, 1]>(X)"], onnx_opset)


def max_pool_nhwc_body(onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the MaxPoolNHWC function: a MaxPool between two Transposes."""
    window = ", ".join(f"{attribute.name}: ints = @{attribute.name}" for attribute in opset.MAX_POOL_NHWC.attributes)
    lines = [_TO_NCHW, f"pooled = MaxPool<{window}>(planes)", "Y = Transpose<perm=[0, 2, 3, 1]>(pooled)"]
    return function_of(opset.MAX_POOL_NHWC, "", ["X"], lines, onnx_opset)


def unpack_body(onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the Unpack function: every dense channel picks its packed plane, or an appended zero plane."""
    names = [tensor.name for tensor in opset.UNPACK.inputs]
    return function_of(opset.UNPACK, "", names, _unpack_to("Y"), onnx_opset)


UNPACK_ADD_ACTIVATIONS = {
    "none": "{y} = Identity(sum)",
    "relu": "{y} = Relu(sum)",
    "bounded": "low = Constant<value_float: float = @lower>() {y} = Max(sum, low)",
}
"""How UnpackAdd and Linear bound their sum: by the attribute `lower`, -FLOAT_MAX, 0 or anything else."""


@dataclass(frozen=True)
class SumVariant:
    """The choices in an UnpackAdd body.

    `activation`: one of UNPACK_ADD_ACTIVATIONS. `packed`: there is K. `measured`: there is U.
    """

    activation: str
    packed: bool = False
    measured: bool = False

    @property
    def overload(self) -> str:
        """The name that tells this body from the others in one file."""
        return _overload("packed" * self.packed, "measured" * self.measured, self.activation)


def unpack_add_body(variant: SumVariant, onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the UnpackAdd function for `variant`."""
    names = [tensor.name for tensor in opset.UNPACK_ADD.inputs if variant.packed or not tensor.optional]
    summand = "summand" if variant.packed else "Z"
    lines = [*_unpack_to("dense"), f"sum = Add({summand}, dense)"]
    lines += [UNPACK_ADD_ACTIVATIONS[variant.activation].format(y="Y")]
    if variant.measured:
        lines += ["whole = Transpose<perm=[0, 3, 1, 2]>(Y)", _PLANE_AXES, *_mean_size("whole", "U")]
    result = function_of(
        opset.UNPACK_ADD, variant.overload, names, lines, onnx_opset, optional_outputs=variant.measured
    )
    if variant.packed:
        first = unpack_body(onnx_opset).node
        _rename(first, {"X": "Z", "I": "K", "Y": "summand"}, "z_")
        nodes = [*first, *result.node]
        del result.node[:]
        result.node.extend(nodes)
    return result


def _rename(nodes: Iterable[NodeProto], names: Mapping[str, str], prefix: str) -> None:
    """Changes what `nodes` call their tensors: as `names` says, else with `prefix` before."""
    for node in nodes:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, f"{prefix}{name}") for name in tensors]


def unpack_int8_body(onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the UnpackInt8 function: as Unpack's, with an appended plane of the byte `zero`."""
    names = [tensor.name for tensor in opset.UNPACK_INT8.inputs]
    lines = [_scalar_byte("zero"), *_unpack_to("Y", absent="zero")]
    return function_of(opset.UNPACK_INT8, "", names, lines, onnx_opset)


def unpack_add_int8_body(activation: str, onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the UnpackAddInt8 function for one of UNPACK_ADD_ACTIVATIONS, which names its overload.

    It rounds what a step of X stands for before it is counted in steps of Y, the op after; bytes may differ by one
    step where a sum lies halfway between two.
    """
    lines = [_scale(name) for name in ("x", "z", "y")]
    lines += [*_unpack_to("dense_bytes", absent="x_zero"), "dense = DequantizeLinear(dense_bytes, x_step, x_zero)"]
    lines += ["summand = DequantizeLinear(Z, z_step, z_zero)", "sum = Add(summand, dense)"]
    lines += [UNPACK_ADD_ACTIVATIONS[activation].format(y="y"), "Y = QuantizeLinear(y, y_step, y_zero)"]
    names = [tensor.name for tensor in opset.UNPACK_ADD_INT8.inputs]
    return function_of(opset.UNPACK_ADD_INT8, activation, names, lines, onnx_opset)


@dataclass(frozen=True)
class LinearVariant:
    """The choices in a Linear body.

    `activation`: one of UNPACK_ADD_ACTIVATIONS. `dense_input`: I is the constant [[0 .. C-1]]. `half_weight`: W is
    float16. `byte_weight`: W is int8, with P. `average`: of planes their means.
    """

    activation: str
    dense_input: bool = False
    half_weight: bool = False
    average: bool = False
    byte_weight: bool = False

    @property
    def overload(self) -> str:
        """The name that tells this body from the others in one file."""
        stored = "light" * self.half_weight or "tiny" * self.byte_weight
        return _overload("dense" * self.dense_input, stored, "average" * self.average, self.activation)


def linear_body(variant: LinearVariant, onnx_opset: int = opset.ONNX_OPSET) -> FunctionProto:
    """Returns the Linear function for `variant`."""
    planes = "planes" if variant.dense_input else "spread"
    lines = [_TO_NCHW] if variant.dense_input else _spread()
    if variant.average:
        lines = [line.replace(_TO_NCHW, _AVERAGE_TO_NCHW) for line in lines]
    lines += ["floats = Cast<to=1>(W)"] if variant.half_weight else []
    lines += ["numbers = Cast<to=1>(W)", "floats = Mul(numbers, P)"] if variant.byte_weight else []
    weight = "floats" if variant.half_weight or variant.byte_weight else "W"
    lines += [f"flat = Flatten<axis=1>({planes})", f"sum = Gemm(flat, {weight}, B)"]
    lines += [UNPACK_ADD_ACTIVATIONS[variant.activation].format(y="Y")]
    names = [tensor.name for tensor in opset.LINEAR.inputs if variant.byte_weight or not tensor.optional]
    return function_of(opset.LINEAR, variant.overload, names, lines, onnx_opset)


def _unpack_to(result: str, absent: str = "") -> list[str]:
    """X unpacked by I into the tensor `result`; absent channels get the value `absent`, 0 by default."""
    return [*_spread(absent), f"{result} = Transpose<perm=[0, 2, 3, 1]>(spread)"]


def _spread(absent: str = "", *, matters: bool = True) -> list[str]:
    """X unpacked by I into `spread`, NCHW.

    `matters`: absent channels are planes of zeros, or of the value `absent`; else they hold any plane, of which there
    is one.
    """
    # places[n, c]: where dense channel c lies among the packed ones; if absent, their number (the appended plane), or
    # the first of them.
    places = f"""
    channel_count = Constant<value_int: int = @channels>()
    channels = Reshape(channel_count, minus_one)
    dense_shape = Concat<axis=0>(samples, channels)
    start = Constant<value_int=0>()
    step = Constant<value_int=1>()
    stop = Squeeze(live)
    absent = Expand({"live" if matters else "start"}, dense_shape)
    order = Range(start, stop, step)
    orders = Expand(order, packed_shape)
    places = ScatterElements<axis=1>(absent, rows, orders)
    place_of = Unsqueeze(places, minus_one)
    """
    lines = [_MINUS_ONE, _TO_NCHW, _SAMPLES, _ALL_ROWS_OF_I, places]
    if matters:
        lines += ["one_more_plane = Constant<value_ints=[0, 0, 0, 0, 0, 1, 0, 0]>()"]
        lines += [f"padded = Pad(planes, one_more_plane{absent and f', {absent}'})"]
    return [*lines, f"spread = GatherND<batch_dims=1>({'padded' if matters else 'planes'}, place_of)"]


_BLOCKS = """
    block = Constant<value_int: int = @winner_block>()
    no_output = Constant<value_int=0>()
    one_output = Constant<value_int=1>()
    output_numbers = Range(no_output, outputs, one_output)
    block_of = Div(output_numbers, block)
    block_starts = Range(no_output, outputs, block)
    outputs_left = Sub(outputs, block_starts)
    block_lengths = Min(outputs_left, block)
    block_sizes = CastLike(block_lengths, R)
    minus_outputs = Sub(no_output, outputs)
    missing = Mod(minus_outputs, block)
    missing_row = Reshape(missing, minus_one)
    unpadded = Constant<value_ints=[0, 0, 0]>()
    block_pads = Concat<axis=0>(unpadded, missing_row)
    block_row = Reshape(block, minus_one)
    same_rows = Constant<value_ints=[0]>()
    block_shape = Concat<axis=0>(same_rows, minus_one, block_row)
    block_axis = Constant<value_ints=[2]>()
"""
"""Sizes of the blocks, which block each output is in, and how saliencies are padded to whole ones."""

_BLOCK_MEANS = """
    whole_blocks = Pad(s, block_pads)
    blocks = Reshape(whole_blocks, block_shape)
    block_sums = ReduceSum<keepdims=0>(blocks, block_axis)
    block_means = Div(block_sums, block_sizes)
    ranked = Gather<axis=1>(block_means, block_of)
"""
"""What channels compete by, `ranked` (N, K): the mean of s over the channel's block."""


def _loop(variant: FBSVariant) -> list[str]:
    """The layer for one sample after the other; what does not depend on the sample stays outside."""
    body = ["number = Reshape(iteration, minus_one)", "x = Gather<axis=0>(planes, number)"]
    if not variant.dense_input:
        body += ["row = Gather<axis=0>(rows, number)", "i = Reshape(row, minus_one)"]
    body += ["u = Gather<axis=0>(U, number)"] if variant.measured else []
    body += _layer(variant, x="x", means="u", winners="j_row", y="y_row")
    body += ["y_one = Squeeze(y_row, first)", "j_one = Squeeze(j_row, first)", "going_on = Identity(going)"]
    outputs = "bool going_on, float[k,h,w] y_one, int64[k] j_one"
    return [
        _SAMPLES,
        *([] if variant.dense_input else [_ALL_ROWS_OF_I]),
        "sample_count = Squeeze(samples)",
        "yes = Constant<value = bool {1}>()",
        f"y, J = Loop<body = sample (int64 iteration, bool going) => ({outputs}) {{",
        *body,
        "}>(sample_count, yes)",
    ]


def _constants(variant: FBSVariant) -> list[str]:
    """What depends on weights and attributes alone: a runtime computes it once, at load."""
    lines = [_PLANE_AXES, "outputs = Size(R)"]
    if variant.half or variant.byte:
        lines += [_PREDICTOR_OF_BYTES if variant.byte else "predictor = Cast<to=1>(A)"]
    if variant.left_out:
        lines += [
            "plane_axes_of_channels = Constant<value_ints=[1, 2]>()",
            f"all_left_out = Abs({variant.rest})",
            f"left_out_product = MatMul(all_left_out, {variant.predictor})",
            "whole_shift = Add(left_out_product, R)",
        ]
    if not variant.dense_input:
        lines += [
            "row_axis = Constant<value_ints=[0]>()",
            f"predictor_shape = Shape({variant.predictor})",
            "input_count = Gather(predictor_shape, row_axis)",
            "one_row = Constant<value_ints=[1]>()",
            "means_shape = Concat<axis=0>(one_row, input_count)",
            "no_mean = Constant<value_float=0.0>()",
            "no_means = Expand(no_mean, means_shape)",
        ]
    if not variant.all_win:
        lines += ["count = Constant<value_int: int = @winners>()", "k = Reshape(count, minus_one)"]
    if not variant.all_win and variant.blocks:
        lines += [_BLOCKS]
    if variant.pointwise and not variant.dense_input:
        lines += [f"matrix = Squeeze({variant.weight}, plane_axes)"]
        lines += ["k = Shape(R)"] if variant.all_win else []
    elif not variant.all_win and not variant.dense_input:
        # One gather over the K*C kernels at once copies less than a gather of rows followed by one of columns.
        lines += [
            f"w_shape = Shape({variant.weight})",
            "column_axis = Constant<value_ints=[1]>()",
            "row_length = Gather(w_shape, column_axis)",
            "taps = Gather(w_shape, plane_axes)",
            "kernels_shape = Concat<axis=0>(minus_one, taps)",
            f"kernels = Reshape({variant.weight}, kernels_shape)",
        ]
    if variant.activation == "clip":
        lines += [
            "low = Constant<value_float: float = @lower>()",
            "high = Constant<value_float: float = @upper>()",
        ]
    return lines


def _layer(variant: FBSVariant, *, x: str, means: str, winners: str, y: str) -> list[str]:
    """From planes `x` (N, Cx, H, W) to `y` (N, k, H', W') and `winners` (N, k); N is 1 unless all channels win.

    `means` (N, Cx): the planes', there with U and made without.
    """
    return [
        *_saliency(variant, x, means),
        *_winners(variant, winners),
        *_product(variant, x, winners),
        *_epilogue(variant, winners, y),
    ]


def _saliency(variant: FBSVariant, x: str, means: str) -> list[str]:
    """S (N, K) from the mean absolute value of the live channels."""
    shift = "R"
    lines = []
    if variant.left_out:
        # Every channel counts with |E|: in `shift`; those that exist with what they have more.
        live = variant.rest if variant.dense_input else "left_out"
        lines += [] if variant.dense_input else [f"left_out = Gather({variant.rest}, i)"]
        if not variant.measured:
            lines += [f"left_out_planes = Unsqueeze({live}, plane_axes_of_channels)"]
            lines += [f"moved = Add({x}, left_out_planes)", *_mean_size("moved", means)]
        lines += [f"left_out_size = Abs({live})", f"mean = Sub({means}, left_out_size)"]
        means, shift = "mean", "whole_shift"
    elif not variant.measured:
        lines += _mean_size(x, means)
    if not variant.dense_input:
        # Means of all channels by the matrix as it is: less copying than picking its rows out.
        lines += ["places = Unsqueeze(i, row_axis)", f"every_mean = ScatterElements<axis=1>(no_means, places, {means})"]
        means = "every_mean"
    lines += [f"raw = Gemm({means}, {variant.predictor}, {shift})"]
    if not variant.normalize:
        return [*lines, "s = LeakyRelu<alpha: float = @saliency_slope>(raw)"]
    return [
        *lines,
        "leaky = LeakyRelu<alpha: float = @saliency_slope>(raw)",
        "sum_axis = Constant<value_ints=[1]>()",
        "total = ReduceSum<keepdims=1>(leaky, sum_axis)",
        "outputs_float = Cast<to=1>(outputs)",
        "zero = Constant<value_float=0.0>()",
        "no_total = Equal(total, zero)",
        "divisor = Where(no_total, outputs_float, total)",
        "factor = Div(outputs_float, divisor)",
        "s = Mul(leaky, factor)",
    ]


def _mean_size(planes: str, means: str) -> list[str]:
    """The mean absolute value of each of `planes` (N, C, H, W)."""
    return [f"{planes}_size = Abs({planes})", f"{means} = ReduceMean<keepdims=0>({planes}_size, plane_axes)"]


def _winners(variant: FBSVariant, winners: str) -> list[str]:
    """Winners ascending and p (N, k, 1, 1), their s; ONNX's TopK takes the lower index of equals."""
    if variant.all_win:
        lines = [
            "s_shape = Shape(s)",
            "from_zero = Constant<value_int=0>()",
            "by_one = Constant<value_int=1>()",
            "all_outputs = Range(from_zero, outputs, by_one)",
            f"{winners} = Expand(all_outputs, s_shape)",
        ]
    else:
        lines = [_BLOCK_MEANS] if variant.blocks else []
        lines += [
            f"best, by_saliency = TopK<axis=1, sorted=0>({'ranked' if variant.blocks else 's'}, k)",
            f"{winners}, position = TopK<axis=1, largest=0>(by_saliency, k)",
            f"won = GatherElements<axis=1>(s, {winners})",
        ]
    return [*lines, f"p = Unsqueeze({'s' if variant.all_win else 'won'}, plane_axes)"]


def _product(variant: FBSVariant, x: str, winners: str) -> list[str]:
    """Convolution + B before scaling, of the winners and the live channels only."""
    if variant.all_win:
        bias, rows, lines = "B", variant.weight, []
    else:
        bias, rows, lines = "bias", "j", [f"j = Reshape({winners}, minus_one)", "bias = Gather(B, j)"]
    chosen = "chosen"
    if variant.dense_input and variant.all_win:
        chosen = variant.weight
    elif variant.dense_input:
        lines += [f"chosen = Gather<axis=0>({variant.weight}, j)"]
    elif variant.pointwise:
        # Single numbers: Gather calls memcpy for each, GatherElements does not (8 times as fast on one thread).
        rows = "matrix"
        if not variant.all_win:
            rows = "chosen_rows"
            lines += ["chosen_rows = Gather<axis=0>(matrix, j)"]
        lines += [
            "live_count = Shape(i)",
            "chosen_shape = Concat<axis=0>(k, live_count)",
            "columns = Expand(i, chosen_shape)",
            f"chosen_matrix = GatherElements<axis=1>({rows}, columns)",
            "chosen = Unsqueeze(chosen_matrix, plane_axes)",
        ]
    elif variant.all_win:
        lines += [f"chosen = Gather<axis=1>({variant.weight}, i)"]
    else:
        lines += [
            "row_start = Mul(j, row_length)",
            "row_starts = Unsqueeze(row_start, column_axis)",
            "kernel_of = Add(row_starts, i)",
            "chosen = Gather<axis=0>(kernels, kernel_of)",
        ]
    return [*lines, f"product = {_CONV}({x}, {chosen}, {bias})"]


def _epilogue(variant: FBSVariant, winners: str, y: str) -> list[str]:
    """clamp(p * product + D); with s >= 0 and no D, ReLU may come first, where it joins the Conv."""
    steps = [("Mul", "p")]
    lines = []
    if variant.post_shift:
        lines = [f"shift = Gather(D, {winners})", "shift_planes = Unsqueeze(shift, plane_axes)"]
        steps += [("Add", "shift_planes")]
    if variant.activation == "relu":
        early = variant.nonnegative and not variant.post_shift
        steps.insert(0 if early else len(steps), ("Relu", ""))
    if variant.activation == "clip":
        steps += [("Clip", "low, high")]
    value = "product"
    for number, (op, operand) in enumerate(steps):
        result = y if number == len(steps) - 1 else f"step_{number}"
        lines += [f"{result} = {op}({', '.join(filter(None, (value, operand)))})"]
        value = result
    return lines


def function_of(
    op: opset.Op, overload: str, inputs: list[str], lines: list[str], onnx_opset: int, *, optional_outputs: bool = False
) -> FunctionProto:
    """Returns an op's local function, its body written as ONNX text, one statement after the other.

    `optional_outputs`: it makes those too.
    """
    header = f'domain: "{opset.DOMAIN}"' + (f', overload: "{overload}"' if overload else "")
    attributes = f"<{', '.join(attribute.name for attribute in op.attributes)}> " if op.attributes else ""
    outputs = ", ".join(tensor.name for tensor in op.outputs if optional_outputs or not tensor.optional)
    body = "\n".join(lines)
    text = (
        f'<{header}, opset_import: ["": {onnx_opset}]>\n'
        f"{op.name} {attributes}({', '.join(inputs)}) => ({outputs}) {{\n{body}\n}}"
    )
    return parser.parse_function(text)
