"""Activations: a module each, so that methods and the channel graph know them by their class."""

import math
from collections.abc import Callable

import numpy as np

from compressor.onnx_in.reader import Node, Reader

__all__ = ["ACTIVATION_RULES"]

Rule = Callable[[Reader, Node], None]


def _plain(kind: str, **fixed: float) -> Rule:
    """An activation without numbers of its own; attributes must have the values torch has built in."""

    def rule(reader: Reader, node: Node) -> None:
        for name, value in fixed.items():
            if not math.isclose(float(node.get(name, value)), value, rel_tol=1e-5):
                raise node.refuse(f"has {name} {node.get(name):g}; {value:g} can be read")
        reader.layer(node, kind, {})

    return rule


def _slope(kind: str, setting: str, default: float) -> Rule:
    def rule(reader: Reader, node: Node) -> None:
        reader.layer(node, kind, {setting: float(node.get("alpha", default))})

    return rule


def _hard_sigmoid(reader: Reader, node: Node) -> None:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        reader.layer(node, "hardsigmoid", {})
        return
    product = reader.function(
        node, "mul", [reader.resolved(node.inputs[0]), alpha], outputs=[reader.fresh(node, "scaled")]
    )
    total = reader.function(node, "add", [product, beta], outputs=[reader.fresh(node, "shifted")])
    reader.function(node, "clamp", [total], low=0.0, high=1.0)


def _gelu(reader: Reader, node: Node) -> None:
    reader.layer(node, "gelu", {"approximate": node.get("approximate", "none")})


def _clip(reader: Reader, node: Node) -> None:
    """Bounds of 0 and 6, or 0 alone, are the rectifiers they were."""
    bounds = [_bound(reader, node, place, name) for place, name in ((1, "min"), (2, "max"))]
    low, high = bounds
    if low is None and high is None:
        reader.alias(node.outputs[0], node.inputs[0])
    elif (low, high) == (0.0, None):
        reader.layer(node, "relu", {})
    elif (low, high) == (0.0, 6.0):
        reader.layer(node, "relu6", {})
    elif low is not None and high is not None and low < high:
        reader.layer(node, "hardtanh", {"min_val": low, "max_val": high})
    else:
        reader.function(node, "clamp", low=low, high=high)


def _bound(reader: Reader, node: Node, place: int, name: str) -> float | None:
    value = node.get(name) if node.version < 11 else reader.constant(node, place)
    if value is None:
        return None
    number = float(np.asarray(value).reshape(()))
    infinite = math.isinf(number) or abs(number) >= float(np.finfo(np.float32).max)
    return None if infinite and (number < 0) == (name == "min") else number


def _prelu(reader: Reader, node: Node) -> None:
    """A slope per channel, (C, 1, 1), or one for all."""
    slope, shape = reader.constant(node, 1), reader.shape(node.inputs[0])
    assert slope is not None
    channels = shape[1] if len(shape) > 1 else 1
    full = (1,) * (len(shape) - slope.ndim) + slope.shape
    if slope.size != 1 and full != (1, channels, *(1,) * (len(shape) - 2)):
        raise node.refuse(f"has slopes of shape {slope.shape}; one, or one per channel ({channels}, 1, 1), can be read")
    values = slope.reshape(-1)
    reader.layer(node, "prelu", {"num_parameters": len(values)}, weights={"weight": values}, weight_name=node.inputs[1])


def _softmax(kind: str) -> Rule:
    """Before opset 13 all dimensions from `axis` on are one."""

    def rule(reader: Reader, node: Node) -> None:
        shape = reader.shape(node.inputs[0])
        axis = int(node.get("axis", -1 if node.version >= 13 else 1)) % len(shape)
        if node.version < 13 and any(size != 1 for size in shape[axis + 1 :]):
            raise node.refuse(f"of opset {node.version} runs over dimensions {axis} and behind; use opset 13 or newer")
        reader.layer(node, kind, {"dim": axis})

    return rule


ACTIVATION_RULES: dict[str, Rule] = {
    "Relu": _plain("relu"),
    "Sigmoid": _plain("sigmoid"),
    "Tanh": _plain("tanh"),
    "HardSwish": _plain("hardswish"),
    "Swish": _plain("silu", alpha=1.0),
    "Mish": _plain("mish"),
    "Softplus": _plain("softplus"),
    "Softsign": _plain("softsign"),
    "Selu": _plain("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "LeakyRelu": _slope("leaky_relu", "negative_slope", 0.01),
    "Elu": _slope("elu", "alpha", 1.0),
    "Celu": _slope("celu", "alpha", 1.0),
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Clip": _clip,
    "PRelu": _prelu,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
}
