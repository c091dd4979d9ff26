"""FBSConv and Unpack in plain numpy, and one-node models of them without a function body: native kernels or nothing."""

import ctypes
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import runtime

FLOAT_MAX = float(np.finfo(np.float32).max)
INPUTS = ("X", "I", "W", "B", "A", "R", "D", "E", "U", "P", "Q")
FUSED_INPUTS = ("X", "I", "W", "B", "A", "R", "V", "S", "D", "E", "U", "P", "Q")
INT8_INPUTS = ("X", "I", "W", "S", "B", "A", "R", "D", "E", "Q")
FUSED_INT8_INPUTS = ("X", "I", "W", "S", "B", "A", "R", "V", "G", "F", "D", "E", "Q")


@dataclass(frozen=True)
class Layer:
    """One FBSConv node: constants by name (D, E, P and Q may be absent) and attributes."""

    constants: dict
    winners: int
    strides: tuple = (1, 1)
    pads: tuple = (1, 1, 1, 1)
    dilations: tuple = (1, 1)
    lower: float = 0.0
    upper: float = FLOAT_MAX
    saliency_slope: float = 0.0
    normalize: int = 0
    winner_block: int = 1

    def attributes(self):
        return {name: value for name, value in vars(self).items() if name != "constants"}

    def changed(self, **changes):
        return replace(self, **changes)


@dataclass(frozen=True)
class Depthwise:
    """One DepthwiseConv node, or what FBSConvDepthwise has of one."""

    weight: np.ndarray
    bias: np.ndarray
    strides: tuple = (1, 1)
    pads: tuple = (1, 1, 1, 1)
    dilations: tuple = (1, 1)
    lower: float = 0.0
    upper: float = 6.0

    def attributes(self):
        return {name: value for name, value in vars(self).items() if name not in ("weight", "bias")}


def make_depthwise(rng, channels, *, kernel=(3, 3), **attributes):
    attributes.setdefault("pads", (kernel[0] // 2, kernel[1] // 2) * 2)
    weight = rng.normal(size=(channels, 1, *kernel)).astype(np.float32)
    return Depthwise(weight, rng.normal(size=channels).astype(np.float32), **attributes)


def make_layer(rng, *, channels=8, outputs=12, kernel=(3, 3), post_shift=False, left_out=False, **attributes):
    shapes = {"W": (outputs, channels, *kernel), "B": outputs, "A": (channels, outputs), "R": outputs, "D": outputs}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants["W"] /= np.sqrt(channels * kernel[0] * kernel[1], dtype=np.float32)
    constants["R"] += 1
    if not post_shift:
        del constants["D"]
    if left_out:
        constants["E"] = rng.normal(size=channels).astype(np.float32)
    attributes.setdefault("pads", (kernel[0] // 2, kernel[1] // 2) * 2)
    return Layer(constants, attributes.pop("winners", outputs), **attributes)


def in_bytes(layer, *names):
    """The layer with W and A, or those of `names`, rounded to whole steps: as bytes with P and Q, and as floats."""
    narrow, wide = dict(layer.constants), dict(layer.constants)
    for name, steps_name, output in (("W", "P", 0), ("A", "Q", 1)):
        if name in (names or "WA"):
            narrow[name], narrow[steps_name] = bytes_and_steps(layer.constants[name], output)
            shape = [-1 if axis == output else 1 for axis in range(narrow[name].ndim)]
            wide[name] = narrow[name] * narrow[steps_name].reshape(shape)
    return layer.changed(constants=narrow), layer.changed(constants=wide)


def bytes_and_steps(weight, output):
    """Whole numbers from -127 to 127 near to the weights, and a step for each output, which axis `output` counts."""
    others = tuple(axis for axis in range(weight.ndim) if axis != output)
    steps = np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)
    return np.rint(weight / steps).astype(np.int8), steps.ravel()


def let_win_together(rng, layer, lanes):
    """Changes `layer`: every other vector of winners, a multiple of `lanes`, lies together, those between do not."""
    outputs = np.arange(len(layer.constants["R"])).reshape(-1, 3, lanes)
    apart = [np.sort(rng.permutation(third[:2].ravel())[:lanes]) for third in outputs]
    winners = np.stack([apart, outputs[:, 2]], axis=1).ravel()[: layer.winners]
    layer.constants["R"][winners] += 1000


def make_input(rng, *, live, channels, batch=1, size=(6, 5), rows=None):
    x = rng.normal(size=(batch, *size, live)).astype(np.float32)
    index = np.stack([np.sort(rng.permutation(channels)[:live]) for _ in range(rows or batch)])
    return x, index.astype(np.int64)


def unpack(x, index, channels):
    dense = np.zeros((*x.shape[:3], channels), x.dtype)
    for n in range(len(x)):
        dense[n][:, :, index[n if len(index) > 1 else 0]] = x[n]
    return dense


def taps(dense, kernel, window):
    """Each tap, and what of dense NHWC, in float64, the outputs see through it."""
    top, left, bottom, right = window.pads
    padded = np.pad(dense.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    kh, kw = kernel
    height = (padded.shape[1] - (kh - 1) * window.dilations[0] - 1) // window.strides[0] + 1
    width = (padded.shape[2] - (kw - 1) * window.dilations[1] - 1) // window.strides[1] + 1
    for ky in range(kh):
        for kx in range(kw):
            y, x = ky * window.dilations[0], kx * window.dilations[1]
            seen = padded[:, y : y + height * window.strides[0] : window.strides[0]]
            yield ky, kx, seen[:, :height, x : x + width * window.strides[1] : window.strides[1]][:, :, :width]


def convolve(dense, weight, window):
    """Convolution of dense NHWC, summed in float64."""
    seen = taps(dense, weight.shape[2:], window)
    return sum(values @ weight[:, :, ky, kx].T.astype(np.float64) for ky, kx, values in seen)


def depthwise_conv(behind, x, index):
    dense = unpack(x, index, len(behind.weight))
    seen = taps(dense, behind.weight.shape[2:], behind)
    sums = sum(values * behind.weight[:, 0, ky, kx].astype(np.float64) for ky, kx, values in seen)
    whole = np.clip(sums + behind.bias, behind.lower, behind.upper) - np.clip(behind.bias, behind.lower, behind.upper)
    return np.stack([whole[n][..., index[n if len(index) > 1 else 0]] for n in range(len(x))])


def winners_of(saliency, count, block=1):
    """The largest, or those of the blocks with the largest mean, ascending; ties to the lower index, NaN lowest."""
    if block > 1:
        blocks = np.split(saliency, range(block, len(saliency), block))
        saliency = np.concatenate([np.full(len(part), part.mean()) for part in blocks])
    ranked = np.where(np.isnan(saliency), -np.inf, saliency)
    order = np.lexsort((np.arange(len(ranked)), np.isnan(saliency), -ranked))
    return np.sort(order[:count])


def fbs_conv(layer, x, index):
    weight, shift, a, r = (layer.constants[name] for name in "WBAR")
    dense = unpack(x, index, weight.shape[1])
    whole = dense.astype(np.float64) + layer.constants.get("E", 0)
    saliency = np.abs(whole).mean(axis=(1, 2)) @ a + r
    saliency = np.where(saliency > 0, saliency, layer.saliency_slope * saliency)
    if layer.normalize:
        total = saliency.sum(axis=1, keepdims=True)
        saliency = saliency * np.where(total == 0, 1, len(r) / np.where(total == 0, 1, total))
    sums = convolve(dense, weight, layer)
    j = np.stack([winners_of(row, layer.winners, layer.winner_block) for row in saliency])
    y = np.stack([saliency[n, j[n]] * (sums[n][:, :, j[n]] + shift[j[n]]) for n in range(len(x))])
    if "D" in layer.constants:
        y = y + layer.constants["D"][j][:, None, None, :]
    return np.clip(y, layer.lower, layer.upper).astype(np.float32), j


def fused(layer, behind, x, index):
    """FBSConv, then DepthwiseConv on what it gives."""
    between, j = fbs_conv(layer, x, index)
    return depthwise_conv(behind, between, j), j


def fbs_model(layer, *, behind=None, shape=("N", "H", "W", "Cx"), computed=(), types=None, means="", **attributes):
    """A model of one FBSConv node, or of one FBSConvDepthwise with the depthwise convolution `behind`.

    `shape` is X's in the file, `computed` constants become graph inputs, `means` names those of U and M that are there,
    `attributes` override those there are.
    """
    op, names, constants, defaults = "FBSConv", INPUTS, layer.constants, layer.attributes()
    if behind is not None:
        op, names, constants = "FBSConvDepthwise", FUSED_INPUTS, constants | {"V": behind.weight, "S": behind.bias}
        defaults |= {f"depthwise_{name}": value for name, value in behind.attributes().items()}
    types = {"X": TensorProto.FLOAT, "I": TensorProto.INT64} | (types or {})
    inputs = [
        helper.make_tensor_value_info("X", types["X"], shape),
        helper.make_tensor_value_info("I", types["I"], ["M", shape[3]]),
    ]
    present = [name for name in names if name in constants]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, constants[name].shape)
        for name in present
        if name in computed
    ]
    initializers = [numpy_helper.from_array(constants[name], name) for name in present if name not in computed]
    outputs = [
        helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4),
        helper.make_tensor_value_info("J", TensorProto.INT64, [None] * 2),
    ]
    kept = {name: value for name, value in (defaults | attributes).items() if value is not None}
    there = {"X", "I", *present, *("U" if "U" in means else "")}
    given = [name if name in there else "" for name in names]
    if "M" in means:
        outputs.append(helper.make_tensor_value_info("M", TensorProto.FLOAT, [None] * 2))
    if "U" in means:
        inputs.append(helper.make_tensor_value_info("U", TensorProto.FLOAT, [None] * 2))
    while not given[-1]:
        given.pop()
    node = helper.make_node(op, given, [output.name for output in outputs], domain="compress", **kept)
    return _model([node], inputs, outputs, initializers)


def depthwise_model(weight, bias, *, shape=("N", "H", "W", "Cx"), computed=False, **attributes):
    """A model of one DepthwiseConv node; None among `attributes` leaves one out."""
    given = {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "lower": 0.0, "upper": 6.0}
    given |= {"channels": len(weight)} | attributes
    kept = {name: value for name, value in given.items() if value is not None}
    node = helper.make_node("DepthwiseConv", ["X", "I", "W", "B"], ["Y"], domain="compress", **kept)
    inputs = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("I", TensorProto.INT64, ["M", shape[3]]),
    ]
    inputs += [helper.make_tensor_value_info("W", TensorProto.FLOAT, weight.shape)] if computed else []
    constants = [numpy_helper.from_array(bias, "B")]
    constants += [] if computed else [numpy_helper.from_array(weight, "W")]
    return _model([node], inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)], constants)


def pair_model(layer, behind):
    """A model of the two nodes that one FBSConvDepthwise stands for."""
    model = onnx.load_model_from_string(fbs_model(layer))
    model.graph.node[0].output[0] = "T"
    attributes = behind.attributes() | {"channels": len(behind.weight)}
    node = helper.make_node("DepthwiseConv", ["T", "J", "V", "S"], ["Y"], domain="compress", **attributes)
    model.graph.node.append(node)
    filters = {"V": behind.weight, "S": behind.bias}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in filters.items())
    return model.SerializeToString()


def make_int8_layer(rng, *, x_zero=0, y_zero=0, channels=8, byte_predictor=False, **settings):
    """An FBSConv layer of numbers whole in their steps, and what FBSConvInt8 has in their place and besides."""
    layer = make_layer(rng, channels=channels, **settings)
    scales = {"x_step": 0.015, "x_zero": x_zero, "y_step": 0.03, "y_zero": y_zero}
    levels, steps = bytes_and_steps(layer.constants["W"], 0)
    whole = {"W": levels, "S": steps}
    layer.constants["W"] = levels * steps[:, None, None, None]
    if byte_predictor:
        whole["A"], whole["Q"] = bytes_and_steps(layer.constants["A"], 1)
        layer.constants["A"] = whole["A"] * whole["Q"]
    if "E" in layer.constants:
        step = np.float32(scales["x_step"])
        whole["E"] = np.rint(layer.constants["E"] / step).astype(np.int32)
        layer.constants["E"] = whole["E"] * step
    return layer, whole, scales


def make_int8_depthwise(rng, channels, *, between_zero=0, **settings):
    """A depthwise convolution of such numbers, what FBSConvDepthwiseInt8 has of it, and the scale of its inputs."""
    behind = make_depthwise(rng, channels, **settings)
    levels, steps = bytes_and_steps(behind.weight, 0)
    behind = replace(behind, weight=levels * steps[:, None, None, None])
    return behind, {"V": levels, "G": steps, "F": behind.bias}, {"between_step": 0.025, "between_zero": between_zero}


def make_bytes(rng, *, live, channels, batch=1, size=(6, 5), rows=None):
    x, index = make_input(rng, live=live, channels=channels, batch=batch, size=size, rows=rows)
    return rng.integers(0, 256, size=x.shape).astype(np.uint8), index


def int8_model(layer, whole, scales, *, behind=None, shape=("N", "H", "W", "Cx"), **attributes):
    """A model of one FBSConvInt8 node, of what `make_int8_layer` made; None among `attributes` leaves one out.

    With `behind`, what `make_int8_depthwise` made, of one FBSConvDepthwiseInt8.
    """
    op, names, constants, defaults = "FBSConvInt8", INT8_INPUTS, layer.constants | whole, layer.attributes() | scales
    if behind is not None:
        depthwise, filters, between = behind
        op, names, constants = "FBSConvDepthwiseInt8", FUSED_INT8_INPUTS, constants | filters
        defaults |= between | {f"depthwise_{name}": value for name, value in depthwise.attributes().items()}
    inputs = [
        helper.make_tensor_value_info("X", TensorProto.UINT8, shape),
        helper.make_tensor_value_info("I", TensorProto.INT64, ["M", shape[3]]),
    ]
    outputs = [
        helper.make_tensor_value_info("Y", TensorProto.UINT8, [None] * 4),
        helper.make_tensor_value_info("J", TensorProto.INT64, [None] * 2),
    ]
    kept = {name: value for name, value in (defaults | attributes).items() if value is not None}
    given = [name if name in ("X", "I", *constants) else "" for name in names]
    while not given[-1]:
        given.pop()
    node = helper.make_node(op, given, ["Y", "J"], domain="compress", **kept)
    return _model([node], inputs, outputs, [numpy_helper.from_array(value, name) for name, value in constants.items()])


def unpack_int8_model(channels, **attributes):
    return _bytes_model("UnpackInt8", ["X", "I"], {"channels": channels, "zero": 7} | attributes)


SUM_SCALES = {"x_step": 0.02, "x_zero": 3, "z_step": 0.03, "z_zero": 120, "y_step": 0.05, "y_zero": 0}
"""Of the sum that `unpack_add_int8_model` makes unless it is told otherwise."""


def unpack_add_int8_model(channels, lower=-FLOAT_MAX, **attributes):
    return _bytes_model(
        "UnpackAddInt8", ["X", "I", "Z"], {"channels": channels, "lower": lower, **SUM_SCALES} | attributes
    )


def _bytes_model(op, names, attributes):
    """A model of one node on bytes; None among `attributes` leaves one out."""
    kept = {name: value for name, value in attributes.items() if value is not None}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [None] * 2)
        if name == "I"
        else helper.make_tensor_value_info(name, TensorProto.UINT8, [None] * 4)
        for name in names
    ]
    node = helper.make_node(op, names, ["Y"], domain="compress", **kept)
    return _model([node], inputs, [helper.make_tensor_value_info("Y", TensorProto.UINT8, [None] * 4)], [])


def unpack_model(channels):
    node = helper.make_node("Unpack", ["X", "I"], ["Y"], domain="compress", channels=channels)
    inputs = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, [None] * 4),
        helper.make_tensor_value_info("I", TensorProto.INT64, [None] * 2),
    ]
    return _model([node], inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)], [])


def unpack_add_model(channels, lower=-FLOAT_MAX, *, means=False, packed=False):
    """A model of one UnpackAdd node; `means`: with U, `packed`: with K."""
    attributes = {"channels": channels, "lower": lower}
    outputs = {"Y": 4, "U": 2} if means else {"Y": 4}
    names = ["X", "I", "Z", "K"] if packed else ["X", "I", "Z"]
    node = helper.make_node("UnpackAdd", names, list(outputs), domain="compress", **attributes)
    inputs = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, [None] * 4),
        helper.make_tensor_value_info("I", TensorProto.INT64, [None] * 2),
        helper.make_tensor_value_info("Z", TensorProto.FLOAT, [None] * 4),
    ]
    inputs += [helper.make_tensor_value_info("K", TensorProto.INT64, [None] * 2)] if packed else []
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()]
    return _model([node], inputs, results, [])


def to_nhwc_model(shape=("N", "C", "H", "W")):
    node = helper.make_node("ToNHWC", ["X"], ["Y"], domain="compress")
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, shape)]
    return _model([node], inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)], [])


def max_pool_model(shape=("N", "H", "W", "C"), **attributes):
    node = helper.make_node("MaxPoolNHWC", ["X"], ["Y"], domain="compress", **attributes)
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, shape)]
    return _model([node], inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * len(shape))], [])


def linear_model(weight, bias, channels, lower=-FLOAT_MAX, average=0, *, steps=None):
    attributes = {"channels": channels, "lower": lower, "average": average}
    names = ["X", "I", "W", "B", *([] if steps is None else "P")]
    node = helper.make_node("Linear", names, ["Y"], domain="compress", **attributes)
    inputs = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", "H", "W", "Cx"]),
        helper.make_tensor_value_info("I", TensorProto.INT64, [None] * 2),
    ]
    constants = [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(bias, "B")]
    constants += [] if steps is None else [numpy_helper.from_array(steps, "P")]
    return _model([node], inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 2)], constants)


def chain_model(layers, size):
    """FBSConv after FBSConv, then Unpack: one float input X [1, *size, C], its channels all there; one output."""
    channels, outputs = layers[0].constants["W"].shape[1], layers[-1].constants["W"].shape[0]
    nodes, initializers = [], [numpy_helper.from_array(np.arange(channels)[None], "channels")]
    x, index = "X", "channels"
    for number, layer in enumerate(layers):
        names = [f"{name}{number}" for name in layer.constants]
        initializers += map(numpy_helper.from_array, layer.constants.values(), names)
        y, j = f"Y{number}", f"J{number}"
        named = {"name": f"layer{number}", "domain": "compress"}
        nodes.append(helper.make_node("FBSConv", [x, index, *names], [y, j], **named, **layer.attributes()))
        x, index = y, j
    nodes.append(helper.make_node("Unpack", [x, index], ["Y"], name="unpack", domain="compress", channels=outputs))
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, *size, channels])]
    return _model(nodes, inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)], initializers)


def _model(nodes, inputs, outputs, initializers):
    graph = helper.make_graph(nodes, "model", inputs, outputs, initializers)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("compress", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()


def open_session(model, isa="", threads=1, way=""):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # refusals are expected here
    options.add_session_config_entry("compress.isa", isa)
    options.add_session_config_entry("compress.threads", str(threads))
    options.add_session_config_entry("compress.way", way)
    options.register_custom_ops_library(str(runtime.library_path()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def allocated_after_the_first(session, feeds):
    """Buffers that the library allocates in five runs, once a first one has been made."""
    allocations = ctypes.CDLL(str(runtime.library_path())).CompressAllocations
    allocations.restype = ctypes.c_int64
    session.run(None, feeds)
    before = allocations()
    for _ in range(5):
        session.run(None, feeds)
    return allocations() - before


def isa_names():
    """Every instruction set that runs here, `generic` last."""
    return [isa.name for isa in runtime.isas() if isa.built and isa.supported]
