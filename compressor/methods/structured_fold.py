"""Weights of a network's layers made ready once for many runs: batch norms folded in, in the number format of the runs.

    scale' = scale / sqrt(variance + eps)      W' = scale' * W      b' = scale' * (b - mean) + shift

One factor per output, so masks over inputs, kernels and positions act on W' as they do on W.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from compressor.methods.structured_program import Env

__all__ = ["EPS", "LayerWeights", "prepare"]

# Batch norms in evaluation, and which of their arguments is eps.
EPS = {"aten.batch_norm.default": 7, "aten._native_batch_norm_legit_no_training.default": 6}

_LAYERS = ("aten.conv", "aten.linear")


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What a layer multiplies by and adds.

    Attributes:
        weight: As its operator takes it.
        bias: (outputs,), or None.
        norm: Name of the batch norm that is in them; None where there is none.
    """

    weight: Tensor
    bias: Tensor | None
    norm: str | None = None


def prepare(
    nodes: Sequence[fx.Node], constants: Env, *, fold: bool, dtype: torch.dtype | None = None
) -> dict[str, LayerWeights]:
    """Returns the weights of the convolutions and linear layers whose weights are constant, by name of the node.

    Args:
        nodes: Operators; others are left out.
        constants: Values of the nodes that do not depend on images.
        fold: A batch norm that alone reads a convolution goes into it; a transposed convolution's stays.
        dtype: What float32 weights are converted to; None leaves them.
    """
    ready: dict[str, LayerWeights] = {}
    for node in nodes:
        if not str(node.target).startswith(_LAYERS) or "weight" in node.kwargs or "bias" in node.kwargs:
            continue
        weight, bias = _constant(node.args[1], constants), None
        if len(node.args) > 2 and node.args[2] is not None:
            bias = _constant(node.args[2], constants)
            if bias is None:
                continue
        if weight is None:
            continue
        norm = _norm(node, constants) if fold else None
        if norm is not None:
            weight, bias = _folded(norm, weight, bias, constants)
        if dtype is not None and weight.dtype == torch.float32:
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        ready[node.name] = LayerWeights(weight, bias, None if norm is None else norm.name)
    return ready


def _norm(layer: fx.Node, constants: Env) -> fx.Node | None:
    """The batch norm that may go into a layer."""
    users = list(layer.users)
    transposed = "transpose" in str(layer.target) or (str(layer.target) == "aten.convolution.default" and layer.args[6])
    if len(users) != 1 or transposed or "conv" not in str(layer.target):
        return None
    norm = users[0]
    if str(norm.target) not in EPS or norm.args[0] is not layer:
        return None
    if str(norm.target) == "aten.batch_norm.default" and norm.args[5]:  # measures its batch
        return None
    needed = [arg for arg in norm.args[1:5] if arg is not None]
    known = all(_constant(arg, constants) is not None for arg in needed)
    return norm if known and norm.args[3] is not None and norm.args[4] is not None else None


def _folded(norm: fx.Node, weight: Tensor, bias: Tensor | None, constants: Env) -> tuple[Tensor, Tensor]:
    scale, shift, mean, variance = (_constant(arg, constants) for arg in norm.args[1:5])
    eps: Any = norm.args[EPS[str(norm.target)]]
    assert mean is not None
    assert variance is not None
    factor = (variance.double() + eps).rsqrt()
    if scale is not None:
        factor = factor * scale.double()
    new_bias = factor * ((0.0 if bias is None else bias.double()) - mean.double())
    if shift is not None:
        new_bias = new_bias + shift.double()
    new_weight = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
    return new_weight.to(weight.dtype), new_bias.to(weight.dtype)


def _constant(arg: object, constants: Mapping[str, Any]) -> Tensor | None:
    value = constants.get(arg.name) if isinstance(arg, fx.Node) else None
    return value if isinstance(value, Tensor) else None
