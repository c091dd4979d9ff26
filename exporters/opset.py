"""The ops of domain `compress`: names, attributes and shapes, written down once.

Exporter passes, function bodies, the inspector and the native library's tests all read this table. Letters in the
shapes: N samples, H×W input plane, H'×W' output plane, H''×W'' that of a second convolution, C input channels of the
dense layer, Cx those that exist, K output channels of the dense layer, k winners, l those
of another layer.

An op is stored in the file both as a node and as an ONNX local function of the same name (`exporters.functions`), so
that a stock runtime inlines the body while a runtime with the native library takes its own kernel.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

__all__ = [
    "DEPTHWISE_CONV",
    "DOMAIN",
    "FBS_CONV",
    "FBS_CONV_DEPTHWISE",
    "FBS_CONV_DEPTHWISE_INT8",
    "FBS_CONV_INT8",
    "FBS_LAYERS",
    "FLOAT_MAX",
    "IR_VERSION",
    "LINEAR",
    "MAX_ONNX_OPSET",
    "MAX_POOL_NHWC",
    "MIN_ONNX_OPSET",
    "NO_CLAMP",
    "ONNX_OPSET",
    "OPS",
    "SPARSE_CONV",
    "TORCH_DOMAIN",
    "TORCH_FBS_CONV",
    "TO_NHWC",
    "UNPACK",
    "UNPACK_ADD",
    "UNPACK_ADD_INT8",
    "UNPACK_INT8",
    "VERSION",
    "WINNERS",
    "Attribute",
    "Op",
    "Tensor",
]

_Value = TypeVar("_Value")

DOMAIN = "compress"
VERSION = 1

ONNX_OPSET = 25
"""Standard opset of files and function bodies unless asked otherwise.

The newest that both take: ONNX Runtime 1.31 loads up to 26 (tried), TensorRT 11 up to 25 (NVIDIA, "ONNX Opset Guide").
"""

MAX_ONNX_OPSET = 26
"""Newest that ONNX Runtime 1.31 loads."""

MIN_ONNX_OPSET = 18
"""First in which all reductions take their axes as an input, as passes and bodies write them."""

IR_VERSION = 10
"""First file version in which a node may name an overload of a local function."""

FLOAT_MAX = 3.4028234663852886e38
"""Largest float32: `upper` of a layer that is not clamped from above."""

TORCH_DOMAIN = "compress.torch"
TORCH_FBS_CONV = "FBSConvDense"
"""Stands for torch's compress::fbs_conv between torch's exporter and `passes.lower_fbs_conv`; never in a file.

Dense NCHW in and out; inputs X W B A R [D], attributes of FBSConv but the clamp.
"""

WINNERS = "/winners"
"""Ending of the name of the TopK of a layer that `passes.spell_out_fbs` wrote; before it stands the layer's name."""

NO_CLAMP = {"lower": -FLOAT_MAX, "upper": FLOAT_MAX}


@dataclass(frozen=True)
class Tensor:
    """One input or output: letter shape, element type, whether it may be absent or must be constant."""

    name: str
    type: str
    shape: tuple[str, ...]
    meaning: str
    optional: bool = False
    constant: bool = False


@dataclass(frozen=True)
class Attribute:
    """One attribute; `type` is one of int, ints, float. All attributes are always written to the file."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class Op:
    """One op of domain `compress`."""

    name: str
    summary: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...]

    def given(self, values: Iterable[_Value]) -> dict[str, _Value]:
        """What a node reads, by the op's names for it."""
        return dict(zip([tensor.name for tensor in self.inputs], values, strict=False))


_FLOATS_OR_BYTES = "float, float16 or int8"

FBS_CONV = Op(
    name="FBSConv",
    summary=(
        "Convolution that computes only the k most salient of K output channels, from only the Cx input "
        "channels that exist. Where W is int8, W[i] stands for P[i] * W[i], and where A is, A[c,i] for Q[i] * A[c,i]. "
        "u[n,c] = mean over H, W of |X + E[c]|, X being 0 in channels that do not exist and E 0 "
        "where it is absent (with U, u = U); s = leaky(sum over c of u*A[c] + R, saliency_slope); with normalize, s = "
        "K*s/sum(s) unless sum(s) is 0; J = the k with the largest r, ties to the lower index, ascending, where r = s, "
        "or with winner_block b > 1 the mean of s over the channels of the same i // b; with i = J[n,j], Y[n,:,:,j] = "
        "clamp(s[n,i] * (conv(X, W)[i] + B[i]) + D[i], lower, upper). M = mean over H', W' of |Y|, for the "
        "predictors of the FBSConvs that read Y."
    ),
    inputs=(
        Tensor("X", "float", ("N", "H", "W", "Cx"), "channels that exist, packed, channels last"),
        Tensor(
            "I",
            "int64",
            ("N|1", "Cx"),
            "which of the C channels each is, ascending; one row serves all samples",
        ),
        Tensor("W", _FLOATS_OR_BYTES, ("K", "C", "kh", "kw"), "kernels, batch-norm statistics folded", constant=True),
        Tensor("B", "float", ("K",), "shift inside the product", constant=True),
        Tensor("A", _FLOATS_OR_BYTES, ("C", "K"), "saliency weights", constant=True),
        Tensor("R", "float", ("K",), "saliency bias", constant=True),
        Tensor("D", "float", ("K",), "shift outside the product", optional=True, constant=True),
        Tensor("E", "float", ("C",), "what X leaves out of each channel's plane", optional=True, constant=True),
        Tensor("U", "float", ("N", "Cx"), "mean |X + E| of each plane; absent: computed", optional=True),
        Tensor(
            "P",
            "float",
            ("K",),
            "step of each output's W, positive, where W is int8: W stands for P * W",
            optional=True,
            constant=True,
        ),
        Tensor(
            "Q",
            "float",
            ("K",),
            "step of each output's A, positive, where A is int8: A stands for Q * A",
            optional=True,
            constant=True,
        ),
    ),
    outputs=(
        Tensor("Y", "float", ("N", "H'", "W'", "k"), "the winners' planes, packed, channels last"),
        Tensor("J", "int64", ("N", "k"), "which of the K channels each is, ascending"),
        Tensor("M", "float", ("N", "k"), "mean |Y| of each plane", optional=True),
    ),
    attributes=(
        Attribute("winners", "int", "k, at least 1 and at most K"),
        Attribute("strides", "ints", "2 steps: down, right"),
        Attribute("pads", "ints", "4 zero borders: top, left, bottom, right"),
        Attribute("dilations", "ints", "2 distances between taps: down, right"),
        Attribute("lower", "float", "lower clamp; ReLU is 0, none is -FLOAT_MAX"),
        Attribute("upper", "float", "upper clamp; ReLU6 is 6, none is FLOAT_MAX"),
        Attribute("saliency_slope", "float", "slope of s below zero: 0 is ReLU, 1 the identity"),
        Attribute("normalize", "int", "1: s is scaled to mean 1 over the K channels, unless it sums to 0; 0: not"),
        Attribute("winner_block", "int", "b, neighbouring channels that win or lose together; 1: each for itself"),
    ),
)

_WINDOW = tuple(
    attribute
    for attribute in FBS_CONV.attributes
    if attribute.name in ("strides", "pads", "dilations", "lower", "upper")
)
"""What all our convolutions have alike."""

FBS_CONV_INT8 = Op(
    name="FBSConvInt8",
    summary=(
        "FBSConv on bytes: X stands for x_step * (X - x_zero), W for S * W, and Y for y_step * (Y - y_zero), rounded "
        "to the nearest and cut to 0 … 255. Products of X and W are summed in int32, exactly. E counts in steps of X: "
        "u[n,c] = x_step * mean over H, W of |X - x_zero + E[c]|, in channels that do not exist x_step * |E[c]|."
    ),
    inputs=(
        Tensor("X", "uint8", ("N", "H", "W", "Cx"), FBS_CONV.inputs[0].meaning),
        FBS_CONV.inputs[1],
        Tensor("W", "int8", ("K", "C", "kh", "kw"), "kernels, at most 65793 numbers each", constant=True),
        Tensor("S", "float", ("K",), "step of each output's W, positive", constant=True),
        *FBS_CONV.inputs[3:-4],
        replace(FBS_CONV.inputs[-4], type="int32", meaning="what X leaves out of each channel's plane, in steps of X"),
        FBS_CONV.inputs[-1],
    ),
    outputs=(Tensor("Y", "uint8", ("N", "H'", "W'", "k"), FBS_CONV.outputs[0].meaning), FBS_CONV.outputs[1]),
    attributes=(
        *FBS_CONV.attributes,
        Attribute("x_step", "float", "value of one step of X, positive"),
        Attribute("x_zero", "int", "the byte of X that is 0, from 0 to 255; padding has it too"),
        Attribute("y_step", "float", "value of one step of Y, positive"),
        Attribute("y_zero", "int", "the byte of Y that is 0, from 0 to 255"),
    ),
)

UNPACK = Op(
    name="Unpack",
    summary="Puts packed channels back in their places: Y[n,:,:,I[n,j]] = X[n,:,:,j], exactly 0 elsewhere.",
    inputs=(
        Tensor("X", "float", ("N", "H", "W", "k"), "packed, channels last"),
        Tensor("I", "int64", ("N|1", "k"), "place of each, ascending"),
    ),
    outputs=(Tensor("Y", "float", ("N", "H", "W", "C"), "dense, channels last"),),
    attributes=(Attribute("channels", "int", "C"),),
)

DEPTHWISE_CONV = Op(
    name="DepthwiseConv",
    summary=(
        "Depthwise convolution of the channels that exist, without what it makes of a plane of zeros: with i = I[n,j], "
        "Y[n,:,:,j] = clamp(conv(X[n,:,:,j], W[i]) + B[i], lower, upper) - clamp(B[i], lower, upper), and so 0 in "
        "channels that do not exist. An FBSConv takes the rest as its B and E."
    ),
    inputs=(
        Tensor("X", "float", ("N", "H", "W", "Cx"), "packed, channels last"),
        Tensor("I", "int64", ("N|1", "Cx"), "which of the C channels each is, ascending"),
        Tensor("W", "float", ("C", "1", "kh", "kw"), "one filter for each channel", constant=True),
        Tensor("B", "float", ("C",), "bias", constant=True),
    ),
    outputs=(Tensor("Y", "float", ("N", "H'", "W'", "Cx"), "packed, channels last, in the places I says"),),
    attributes=(*_WINDOW, *UNPACK.attributes),
)

FBS_CONV_DEPTHWISE = Op(
    name="FBSConvDepthwise",
    summary=(
        "FBSConv, and DepthwiseConv on its winners: T, J = FBSConv(X, I, W, B, A, R, D, E, U, P, Q), then "
        "Y = DepthwiseConv(T, J, V, S) with the attributes in depthwise_*. T need not exist as a whole. With Z = "
        "clamp(S), what Y leaves out and FBSConvs take as their E, M[n,j] = mean over H'', W'' of |Y[n,:,:,j] + Z[i]|, "
        "i = J[n,j]."
    ),
    inputs=(
        *FBS_CONV.inputs[:-5],
        Tensor("V", "float", ("K", "1", "kh'", "kw'"), "one filter for each of the K channels", constant=True),
        Tensor("S", "float", ("K",), "their bias", constant=True),
        *FBS_CONV.inputs[-5:],
    ),
    outputs=(
        Tensor("Y", "float", ("N", "H''", "W''", "k"), "packed, channels last, in the places J says"),
        FBS_CONV.outputs[1],
        replace(FBS_CONV.outputs[2], meaning="mean |Y + Z| of each plane"),
    ),
    attributes=(
        *FBS_CONV.attributes,
        *(replace(attribute, name=f"depthwise_{attribute.name}") for attribute in _WINDOW),
    ),
)

FBS_CONV_DEPTHWISE_INT8 = Op(
    name="FBSConvDepthwiseInt8",
    summary=(
        "FBSConvDepthwise on bytes: T, J = FBSConvInt8(X, I, W, S, B, A, R, D, E, Q) with between_step as its y_step "
        "and between_zero as its y_zero, then Y = DepthwiseConv(T, J, V, F) with the attributes in depthwise_*. T "
        "stands for between_step * (T - between_zero), V for G * V, and Y for y_step * (Y - y_zero), rounded to the "
        "nearest and cut to 0 … 255. T need not exist as a whole."
    ),
    inputs=(
        *FBS_CONV_INT8.inputs[:-3],
        Tensor("V", "int8", ("K", "1", "kh'", "kw'"), "filters, at most 514 numbers each", constant=True),
        Tensor("G", "float", ("K",), "step of each output's V, positive", constant=True),
        Tensor("F", "float", ("K",), "bias behind V", constant=True),
        *FBS_CONV_INT8.inputs[-3:],
    ),
    outputs=(replace(FBS_CONV_DEPTHWISE.outputs[0], type="uint8"), FBS_CONV.outputs[1]),
    attributes=(
        *FBS_CONV_INT8.attributes,
        Attribute("between_step", "float", "value of one step of T, positive"),
        Attribute("between_zero", "int", "the byte of T that is 0, from 0 to 255; padding has it too"),
        *FBS_CONV_DEPTHWISE.attributes[len(FBS_CONV.attributes) :],
    ),
)

FBS_LAYERS = (FBS_CONV, FBS_CONV_INT8, FBS_CONV_DEPTHWISE, FBS_CONV_DEPTHWISE_INT8)
"""The ops that choose winners; J is the second output of each."""

TO_NHWC = Op(
    name="ToNHWC",
    summary="Lays planes out channels last: Y[n,h,w,c] = X[n,c,h,w].",
    inputs=(Tensor("X", "float", ("N", "C", "H", "W"), "dense planes"),),
    outputs=(Tensor("Y", "float", ("N", "H", "W", "C"), "dense, channels last"),),
    attributes=(),
)

MAX_POOL_NHWC = Op(
    name="MaxPoolNHWC",
    summary="ONNX's MaxPool, channels last: Y[n,:,:,c] = MaxPool(X[n,:,:,c]), sizes rounded down.",
    inputs=(Tensor("X", "float", ("N", "H", "W", "C"), "packed or dense, channels last"),),
    outputs=(Tensor("Y", "float", ("N", "H'", "W'", "C"), "the same channels"),),
    attributes=(
        Attribute("kernel_shape", "ints", "kh, kw"),
        *(attribute for attribute in _WINDOW if attribute.name not in ("lower", "upper")),
    ),
)

UNPACK_ADD = Op(
    name="UnpackAdd",
    summary=(
        "A residual sum with its activation: Y = max(Z + Unpack(X, I), lower), with K max(Unpack(Z, K) + Unpack(X, I), "
        "lower). U = mean over H, W of |Y|, for the predictors of the FBSConvs that read Y."
    ),
    inputs=(
        *UNPACK.inputs,
        Tensor("Z", "float", ("N", "H", "W", "C|l"), "dense, channels last, or packed as K says"),
        Tensor("K", "int64", ("N|1", "l"), "place of each channel of a packed Z, ascending", optional=True),
    ),
    outputs=(
        *UNPACK.outputs,
        Tensor("U", "float", ("N", "C"), "mean |Y| of each plane", optional=True),
    ),
    attributes=(
        *UNPACK.attributes,
        Attribute("lower", "float", "lower bound; ReLU is 0, none is -FLOAT_MAX"),
    ),
)

UNPACK_INT8 = Op(
    name="UnpackInt8",
    summary="Unpack on bytes: Y[n,:,:,I[n,j]] = X[n,:,:,j], the byte `zero` elsewhere.",
    inputs=(replace(UNPACK.inputs[0], type="uint8"), UNPACK.inputs[1]),
    outputs=(replace(UNPACK.outputs[0], type="uint8"),),
    attributes=(*UNPACK.attributes, Attribute("zero", "int", "the byte that is 0, from 0 to 255")),
)

UNPACK_ADD_INT8 = Op(
    name="UnpackAddInt8",
    summary=(
        "UnpackAdd on bytes: X stands for x_step * (X - x_zero), Z for z_step * (Z - z_zero), and Y for "
        "y_step * (Y - y_zero), rounded to the nearest and cut to 0 … 255."
    ),
    inputs=(*UNPACK_INT8.inputs, Tensor("Z", "uint8", ("N", "H", "W", "C"), "dense, channels last")),
    outputs=UNPACK_INT8.outputs,
    attributes=(
        *UNPACK_ADD.attributes,
        *(
            Attribute(f"{name.lower()}_{part}", type_, meaning.format(name))
            for name in ("X", "Z", "Y")
            for part, type_, meaning in (
                ("step", "float", "value of one step of {}, positive"),
                ("zero", "int", "the byte of {} that is 0, from 0 to 255"),
            )
        ),
    ),
)

SPARSE_CONV = Op(
    name="SparseConv",
    summary=(
        "Convolution whose lowered feature map (im2col) lacks rows. Row i of C*kh*kw is input channel i // (kh*kw) as "
        "tap i % (kh*kw) sees it, row by row of the kernel; the R that P marks exist, and column r of W holds every "
        "output's weight of the r-th of them: Y = clamp(conv(X, W put in place, 0 elsewhere) + B, lower, upper)."
    ),
    inputs=(
        Tensor("X", "float", ("N", "C", "H", "W"), "dense planes"),
        Tensor("W", "float", ("K", "R"), "weights of the rows that exist", constant=True),
        Tensor(
            "P",
            "uint8",
            ("ceil(C*kh*kw/8)",),
            "one bit a row, lowest bit first: 1 where it exists",
            constant=True,
        ),
        Tensor("B", "float", ("K",), "bias", constant=True),
    ),
    outputs=(Tensor("Y", "float", ("N", "K", "H'", "W'"), "dense planes"),),
    attributes=(
        Attribute("kernel_shape", "ints", "kh, kw"),
        Attribute("in_channels", "int", "C"),
        *_WINDOW,
    ),
)

LINEAR = Op(
    name="Linear",
    summary=(
        "A linear layer on the planes of the channels that exist: with M = the planes of Unpack(X, I), channels first, "
        "in one row a sample, Y = max(M @ W + B, lower). The rows of W that meet absent channels are not read. With "
        "average, M holds each plane's mean instead of its pixels."
    ),
    inputs=(
        Tensor("X", "float", ("N", "H", "W", "Cx"), "packed, channels last"),
        Tensor("I", "int64", ("N|1", "Cx"), "place of each, ascending"),
        Tensor(
            "W",
            _FLOATS_OR_BYTES,
            ("C*H*W|C", "K"),
            "weights, transposed: a channel's rows lie together; with average it has one",
            constant=True,
        ),
        Tensor("B", "float", ("K",), "bias", constant=True),
        FBS_CONV.inputs[-2],
    ),
    outputs=(Tensor("Y", "float", ("N", "K"), "dense"),),
    attributes=(
        *UNPACK_ADD.attributes,
        Attribute("average", "int", "1: planes count with their means; 0: pixel by pixel"),
    ),
)

OPS = {
    op.name: op
    for op in (
        *(*FBS_LAYERS, DEPTHWISE_CONV, SPARSE_CONV, TO_NHWC, MAX_POOL_NHWC),
        *(UNPACK, UNPACK_ADD, UNPACK_INT8, UNPACK_ADD_INT8, LINEAR),
    )
}
