"""Which channels of a tensor can differ from 0, followed through an exported network.

Activations and poolings hand them on, a sum makes the union, a product the intersection, concatenation joins,
flattening repeats; anything else makes all channels live.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Live", "LiveChannels"]


@dataclass(frozen=True)
class Live:
    """Which channels of a tensor can differ from 0: (N, C) booleans twice, and the paper's fraction."""

    budget: Tensor
    effective: Tensor
    fraction: float


class LiveChannels(fx.Interpreter):
    """Runs an exported network on real inputs and notes the live channels of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._live: dict[fx.Node, Live | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Computes a node as usual, then its live channels."""
        result = super().run_node(n)
        applies = n.op == "call_function" and isinstance(result, Tensor)
        self._live[n] = self.follow(n, result) if applies else None
        return result

    def follow(self, node: fx.Node, out: Tensor) -> Live | None:
        """The live channels of a node's result; None means all."""
        rule = _RULES.get(op_name(node))
        return None if rule is None else rule(self, node, out)

    def value(self, argument: Any) -> Any:
        """The value of a node's argument."""
        return self.env[argument] if isinstance(argument, fx.Node) else argument

    def live(self, argument: Any) -> Live | None:
        """The live channels of a node's argument; None means all."""
        return self._live.get(argument) if isinstance(argument, fx.Node) else None


def op_name(node: fx.Node) -> str:
    """`aten.relu` for both aten::relu and aten::relu_, whatever the overload."""
    return str(node.target).rsplit(".", 1)[0].rstrip("_")


def _same(counter: LiveChannels, node: fx.Node, out: Tensor) -> Live | None:
    return counter.live(node.args[0])


def _clamp(counter: LiveChannels, node: fx.Node, out: Tensor) -> Live | None:
    bounds = [a for a in node.args[1:3] if isinstance(a, int | float)]
    low, high = (bounds[0], bounds[1]) if len(bounds) == 2 else (*bounds, 0)[:2]
    keeps_zero = not bounds or (low <= 0.0 <= high)
    return counter.live(node.args[0]) if keeps_zero else None


def _pad(counter: LiveChannels, node: fx.Node, out: Tensor) -> Live | None:
    zeros = len(node.args) < 3 or node.args[2] in (0, None)
    same_channels = out.shape[:2] == counter.value(node.args[0]).shape[:2]
    return counter.live(node.args[0]) if zeros and same_channels else None


def _mean(counter: LiveChannels, node: fx.Node, out: Tensor) -> Live | None:
    dims = counter.value(node.args[1]) if len(node.args) > 1 else []
    rank = counter.value(node.args[0]).ndim
    over_pixels = {dim % rank for dim in dims or [0]} <= {2, 3}
    return counter.live(node.args[0]) if over_pixels else None


def _reshape(counter: LiveChannels, node: fx.Node, out: Tensor) -> Live | None:
    live, source = counter.live(node.args[0]), counter.value(node.args[0])
    if live is None or out.ndim < 2 or out.shape[0] != source.shape[0] or out.shape[1] % source.shape[1]:
        return None
    if out.shape[1] == source.shape[1]:
        return live
    if out.ndim != 2:
        return None
    pixels = out.shape[1] // source.shape[1]
    budget, effective = (mask.repeat_interleave(pixels, dim=1) for mask in (live.budget, live.effective))
    return Live(budget, effective, live.fraction)


def _sum(counter: LiveChannels, node: fx.Node, out: Tensor) -> Live | None:
    first, second = (counter.live(argument) for argument in node.args[:2])
    if first is None or second is None or first.budget.shape != second.budget.shape:
        return None
    return Live(first.budget | second.budget, first.effective | second.effective, max(first.fraction, second.fraction))


def _product(counter: LiveChannels, node: fx.Node, out: Tensor) -> Live | None:
    first, second = (counter.live(argument) for argument in node.args[:2])
    one = first if second is None else second
    if first is None or second is None:
        same_shape = one is not None and tuple(one.budget.shape) == tuple(out.shape[:2])
        return one if same_shape else None
    if first.budget.shape != second.budget.shape:
        return None
    return Live(first.budget & second.budget, first.effective & second.effective, min(first.fraction, second.fraction))


def _concatenation(counter: LiveChannels, node: fx.Node, out: Tensor) -> Live | None:
    parts: Any = node.args[0]  # a list of nodes
    dim = node.args[1] if len(node.args) > 1 else 0
    if dim not in (1, 1 - out.ndim) or all(counter.live(part) is None for part in parts):
        return None
    lives = [counter.live(part) or _all_live(counter.value(part)) for part in parts]
    sizes = [live.budget.shape[1] for live in lives]
    fraction = sum(live.fraction * size for live, size in zip(lives, sizes, strict=True)) / sum(sizes)
    budget, effective = torch.cat([x.budget for x in lives], 1), torch.cat([x.effective for x in lives], 1)
    return Live(budget, effective, fraction)


def _all_live(value: Tensor) -> Live:
    ones = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
    return Live(ones, ones, 1.0)


# A rule gets the network, the node and its result, and returns the result's live channels (None: all).
_Rule = Callable[[LiveChannels, fx.Node, Tensor], Live | None]
# All of these keep a channel of zeros a channel of zeros.
_SAME = (
    "relu relu6 leaky_relu prelu elu selu celu gelu silu mish hardswish tanh abs neg clone contiguous alias "
    "to _to_copy detach dropout feature_dropout max_pool2d avg_pool2d adaptive_avg_pool2d "
    "adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d reflection_pad2d"
)
_RULES: dict[str, _Rule] = {
    **{f"aten.{name}": _same for name in _SAME.split()},
    **{f"aten.{name}": _clamp for name in ("clamp", "clamp_min", "hardtanh")},
    "aten.constant_pad_nd": _pad,
    "aten.mean": _mean,
    **{f"aten.{name}": _reshape for name in ("view", "reshape", "flatten", "squeeze", "_unsafe_view")},
    **{f"aten.{name}": _sum for name in ("add", "sub")},
    "aten.mul": _product,
    "aten.cat": _concatenation,
}
