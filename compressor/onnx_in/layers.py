"""The layers a program may name: torch's own modules, built from settings that are their constructors' arguments."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compressor.errors import CheckpointError

__all__ = ["LAYERS", "make_layer"]

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "linear": nn.Linear,
    "batch_norm1d": nn.BatchNorm1d,
    "batch_norm2d": nn.BatchNorm2d,
    "instance_norm2d": nn.InstanceNorm2d,
    "group_norm": nn.GroupNorm,
    "layer_norm": nn.LayerNorm,
    "local_response_norm": nn.LocalResponseNorm,
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "softmax": nn.Softmax,
    "log_softmax": nn.LogSoftmax,
    "max_pool1d": nn.MaxPool1d,
    "max_pool2d": nn.MaxPool2d,
    "avg_pool1d": nn.AvgPool1d,
    "avg_pool2d": nn.AvgPool2d,
    "global_avg_pool2d": nn.AdaptiveAvgPool2d,
    "global_max_pool2d": nn.AdaptiveMaxPool2d,
}


def make_layer(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """Returns a layer with weights that do not matter.

    Args:
        kind: A name in `LAYERS`.
        settings: Arguments of its class, lists in place of tuples.

    Raises:
        CheckpointError: There is no such layer, or it does not take these settings.
    """
    if kind not in LAYERS:
        raise CheckpointError(f"the network has a layer '{kind}' that this release does not know")
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    try:
        return LAYERS[kind](**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the network's layer '{kind}' does not take {dict(settings)}: {error}") from error
