"""What FBSConv and Unpack mean, written plainly in torch, and one-node models to hold against it."""

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, helper, numpy_helper

from exporters import opset
from exporters.functions import attach_functions

FBS = (
    "winners=2, strides=[1,1], pads=[0,0,0,0], dilations=[1,1], lower=0.0, upper=6.0, saliency_slope=0.0, normalize=0,"
    " winner_block=1"
)
"""Attributes of a 1x1 layer, as ONNX text."""


def fbs_conv(x, indices, weight, shift, saliency_weight, saliency_bias, post_shift=None, left_out=0, **attributes):
    """Dense definition: unpack, convolve all, keep the winners; packed NHWC and indices in and out."""
    samples = len(x)
    outputs, channels = weight.shape[:2]
    dense = unpack(x, indices, channels).transpose(0, 3, 1, 2)
    mean = np.abs(dense + np.reshape(left_out, (-1, 1, 1))).mean(axis=(2, 3))
    saliency = mean @ saliency_weight + saliency_bias
    saliency = np.where(saliency < 0, attributes["saliency_slope"] * saliency, saliency)
    if attributes["normalize"]:
        total = saliency.sum(axis=1, keepdims=True)
        saliency = outputs * saliency / np.where(total == 0, outputs, total)
    block = attributes["winner_block"]
    means = [np.broadcast_to(part.mean(axis=1, keepdims=True), part.shape)
             for part in np.split(saliency, range(block, outputs, block), axis=1)]  # fmt: skip
    ranked = np.concatenate(means, axis=1)
    winners = np.sort(np.argsort(-ranked, axis=1, kind="stable")[:, : attributes["winners"]], axis=1)
    top, left, bottom, right = attributes["pads"]
    padded = F.pad(torch.from_numpy(dense), (left, right, top, bottom))
    convolved = F.conv2d(
        padded,
        torch.from_numpy(weight),
        stride=attributes["strides"],
        dilation=attributes["dilations"],
    ).numpy()
    rows = np.arange(samples)[:, None]
    scale = saliency[rows, winners][:, :, None, None]
    y = scale * (convolved[rows, winners] + shift[winners][:, :, None, None])
    if post_shift is not None:
        y = y + post_shift[winners][:, :, None, None]
    y = np.clip(y, np.float32(attributes["lower"]), np.float32(attributes["upper"]))
    return y.transpose(0, 2, 3, 1).astype(np.float32), winners


def depthwise_conv(x, indices, weight, bias, **attributes):
    """Dense definition: unpack, convolve all, keep those that exist; packed NHWC in and out."""
    channels = len(weight)
    top, left, bottom, right = attributes["pads"]
    dense = torch.from_numpy(unpack(x, indices, channels).transpose(0, 3, 1, 2))
    convolved = F.conv2d(
        F.pad(dense, (left, right, top, bottom)),
        torch.from_numpy(weight),
        stride=attributes["strides"],
        dilation=attributes["dilations"],
        groups=channels,
    ).numpy()
    shift, bounds = bias[:, None, None], (np.float32(attributes["lower"]), np.float32(attributes["upper"]))
    whole = np.clip(convolved + shift, *bounds) - np.clip(shift, *bounds)
    return whole[np.arange(len(x))[:, None], indices].transpose(0, 2, 3, 1)


def to_floats(values, step, zero=0):
    """What bytes stand for."""
    return np.float32(step) * (values.astype(np.float32) - zero)


def to_bytes(values, step, zero):
    """The bytes that stand for floats, or for what is nearest to them."""
    return np.clip(np.rint(values / np.float32(step)) + zero, 0, 255).astype(np.uint8)


def scale_of(values):
    """Step and zero of bytes that stand for these floats."""
    low, high = min(values.min(), 0), max(values.max(), 0)
    step = np.float32((high - low) / 255)
    return float(step), round(float(-low / step))


def unpack(x, indices, channels):
    """Packed NHWC to dense NHWC."""
    dense = np.zeros((*x.shape[:3], channels), np.float32)
    for sample, values in enumerate(x):
        dense[sample][:, :, indices[sample % len(indices)]] = values
    return dense


def fbs_attributes(**changes):
    """A full set of FBSConv attributes: 3x3, stride 1, ReLU, unless changed."""
    return {
        "winners": 1,
        "strides": [1, 1],
        "pads": [1, 1, 1, 1],
        "dilations": [1, 1],
        "lower": 0.0,
        "upper": opset.FLOAT_MAX,
        "saliency_slope": 0.0,
        "normalize": 0,
        "winner_block": 1,
    } | changes


def depthwise_attributes(**changes):
    """A full set of DepthwiseConv attributes but channels: 3x3, stride 1, no clamp, unless changed."""
    return {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], **opset.NO_CLAMP} | changes


def one_node_model(op, shape, indices, constants, attributes, *, batch) -> ModelProto:
    """A model of one compress node with graph input X; `indices` are an initializer when None is not among
    them.

    Args:
        op: Name of the op.
        shape: (H, W, Cx) of the packed input.
        indices: A constant (1, Cx) array, or None for a second graph input I.
        constants: Name to array, in the op's order after I; None for an input that is left out.
        attributes: Of the node.
        batch: Static size or a dimension's name.
    """
    given = {name: value for name, value in constants.items() if value is not None}
    names = ["X", "I", *(name if name in given else "" for name in constants)]
    while not names[-1]:
        names.pop()
    initializers = [numpy_helper.from_array(value, name) for name, value in given.items()]
    type_ = TensorProto.UINT8 if opset.OPS[op].inputs[0].type == "uint8" else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("X", type_, [batch, *shape])]
    if indices is None:
        inputs.append(helper.make_tensor_value_info("I", TensorProto.INT64, [batch, shape[-1]]))
    else:
        initializers.append(numpy_helper.from_array(indices, "I"))
    outputs = [helper.make_tensor_value_info("Y", type_, [None] * 4)]
    if opset.OPS[op] in opset.FBS_LAYERS:
        outputs.append(helper.make_tensor_value_info("J", TensorProto.INT64, [None] * 2))
    node = helper.make_node(
        op,
        names,
        [value.name for value in outputs],
        name=op,
        domain=opset.DOMAIN,
        **attributes,
    )
    graph = helper.make_graph([node], op, inputs, outputs, initializers)
    domains = [helper.make_opsetid("", opset.ONNX_OPSET), helper.make_opsetid(opset.DOMAIN, opset.VERSION)]
    return attach_functions(helper.make_model(graph, opset_imports=domains, ir_version=opset.IR_VERSION))
