"""A network in two parts for the evaluation of masks: what none of them changes, and the rest.

    prefix   every value that does not depend on a masked layer; computed once per image and kept
    layer    a masked layer runs once per mask: x[:, live] and W[:, live] for channels, W * M for kernels and taps
    suffix   what depends on it runs for several masks at a time, side by side along the batch

Channel masks act where the channels are read. The layer that makes them, its batch norm and activation are part of the
prefix then: a cut channel is one that nobody reads, which is what shrinking makes of it.

In the suffix batch norms are folded into the convolutions before them, weights are converted once, and a ReLU that
alone reads its input overwrites it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from compressor.methods.structured_fold import EPS, prepare
from compressor.methods.structured_program import Call, Env, Program, run

__all__ = ["LayerMask", "Prefix", "Suffix"]

# Channels are picked out of so many images at a time: the copy then stays in the processor's cache.
_PICKED = 32


@dataclass(frozen=True, eq=False)
class LayerMask:
    """What of one layer stays.

    Attributes:
        inputs: (in_channels,) booleans, the channels it still reads; None is all.
        weight: Booleans that broadcast to the weight's shape; None is all.
    """

    inputs: Tensor | None = None
    weight: Tensor | None = None


class Prefix:
    """The part of a network that no mask changes."""

    def __init__(self, program: Program, searched: Sequence[fx.Node]) -> None:
        self.changing = {node.name for node in program.with_users(searched)}
        (placeholder,) = (node for node in program.nodes if node.op == "placeholder")
        self._input = placeholder.name
        of_images = {node.name for node in program.with_users([placeholder])}
        edge = {source for node in program.nodes if node.name in self.changing for source in node.all_input_nodes}
        self.frontier = frozenset(n.name for n in edge if n.name in of_images and n.name not in self.changing)
        self._picked = {node.args[0].name for node in searched if isinstance(node.args[0], fx.Node)}
        needed = program.with_ancestors(node for node in edge if node.name in self.frontier)
        self._nodes = [node for node in program.nodes if node in needed]
        self._parameters = program.parameters

    def run(self, inputs: Tensor) -> Env:
        """Returns what the suffix reads, by name of the node."""
        env = {**self._parameters, self._input: inputs}
        run(self._nodes, env, keep=self.frontier)
        # Channels are picked out of whole planes fastest.
        return {name: env[name].contiguous() if name in self._picked else env[name] for name in self.frontier}


class Suffix:
    """The part of a network that masks change; for several masks at a time."""

    def __init__(self, program: Program, prefix: Prefix, names: Mapping[Call, str], anew: bool, bf16: bool) -> None:
        self._layers = {name: call for call, name in names.items()}
        self._changing = [node for node in program.nodes if node.name in prefix.changing]
        needed = program.with_ancestors(self._changing)
        (placeholder,) = (node for node in program.nodes if node.op == "placeholder")
        of_images = program.with_users([placeholder])
        constants = [node for node in program.nodes if node in needed and node not in of_images]
        names_of = frozenset(node.name for node in constants)
        self._constants: Env = dict(program.parameters)
        run(constants, self._constants, keep=names_of)
        self._program = program
        self._nodes = {node.name: node for node in self._changing}
        self._norms = [node.name for node in self._changing if anew and str(node.target) in EPS]
        dtype = torch.bfloat16 if bf16 else None
        self._weights = prepare(self._changing, self._constants, fold=not anew, dtype=dtype)
        found = ((node.name, _overwrites(node, prefix)) for node in self._changing)
        self._relus = {name: source for name, source in found if source is not None}
        # Values of the prefix that others than masked layers read: they stand side by side, once for each mask.
        self._spread = {
            source.name
            for node in self._changing
            for source in node.all_input_nodes
            if source.name in prefix.frontier and not (node.name in self._layers and source is node.args[0])
        }

    def run(self, values: Env, masks: Sequence[Mapping[Call, LayerMask]], size: int) -> Any:
        """Returns the network's outputs, those under each mask one after the other along the batch."""
        number = len(masks)
        env = {**self._constants, **values}
        for name in self._spread if number > 1 else ():
            env[name] = pytree.tree_map_only(Tensor, lambda v: v.repeat(number, *[1] * (v.dim() - 1)), env[name])
        plain = {name: values[name] for name in values}

        special: dict[str, Callable[[Env], Any]] = {}
        for name, ready in self._weights.items():
            special[name] = functools.partial(self._layer, name)
            if ready.norm is not None:
                special[ready.norm] = functools.partial(_passed_on, self._nodes[ready.norm], name)
        special |= {name: functools.partial(self._masked, name, plain, masks, size) for name in self._layers}
        special |= {name: functools.partial(self._normalised, name, size) for name in self._norms}
        special |= {name: functools.partial(_overwritten, source) for name, source in self._relus.items()}
        run(
            [node for node in self._changing if node is not self._program.output],
            env,
            keep=frozenset(n.name for n in self._program.output.all_input_nodes),
            special=special,
        )
        return self._program.result(env)

    def _masked(self, name: str, plain: Env, masks: Sequence[Mapping[Call, LayerMask]], size: int, env: Env) -> Tensor:
        """A masked layer's results under each mask, one after the other along the batch."""
        node, call = self._nodes[name], self._layers[name]
        source = node.args[0]
        assert isinstance(source, fx.Node)
        rest, kwargs = self._arguments(name, env)
        shared = source.name in plain  # of the prefix, the same under each mask
        parts = [plain[source.name]] * len(masks) if shared else list(env[source.name].split(size))
        results = [
            _masked_layer(node, part, rest, kwargs, mask.get(call)) for part, mask in zip(parts, masks, strict=True)
        ]
        return results[0] if len(results) == 1 else torch.cat(results)

    def _layer(self, name: str, env: Env) -> Any:
        """A layer that is not masked."""
        node = self._nodes[name]
        rest, kwargs = self._arguments(name, env)
        source = node.args[0]
        assert isinstance(source, fx.Node)
        assert callable(node.target)
        return node.target(env[source.name], *rest, **kwargs)

    def _arguments(self, name: str, env: Env) -> Any:
        """A layer's arguments after the first, with the weights that are ready."""
        node = self._nodes[name]
        rest, kwargs = fx.map_arg((node.args[1:], node.kwargs), lambda n: env[n.name])
        ready = self._weights.get(name)
        return (rest if ready is None else (ready.weight, ready.bias, *rest[2:])), kwargs

    def _normalised(self, name: str, size: int, env: Env) -> Any:
        """A batch norm with the statistics of what each mask leaves."""
        node = self._nodes[name]
        values: Any = [env[n.name] if isinstance(n, fx.Node) else n for n in node.args[:3]]
        x, scale, shift = values
        eps = node.args[EPS[str(node.target)]]
        assert isinstance(eps, float)
        parts = [F.batch_norm(part, None, None, scale, shift, True, 0.0, eps) for part in x.split(size)]
        result = torch.cat(parts)
        return result if "native" not in str(node.target) else (result, None, None)


def _masked_layer(node: fx.Node, x: Tensor, rest: Any, kwargs: Any, mask: LayerMask | None) -> Any:
    """One convolution or linear layer under one mask."""
    weight, *others = rest
    if mask is not None and mask.weight is not None:
        weight = weight * mask.weight
    if mask is not None and mask.inputs is not None:
        transposed, linear = "transpose" in str(node.target), "linear" in str(node.target)
        if not transposed and weight.shape[1] == len(mask.inputs):  # one group
            live = mask.inputs.nonzero().flatten()
            x, weight = _pick(x, live, -1 if linear else 1), weight.index_select(1, live)
            if weight.dim() == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)  # so comes the result
        else:
            x = x * mask.inputs.view(-1, *[1] * (weight.dim() - 2)).to(x.dtype)
    assert callable(node.target)
    return node.target(x, weight, *others, **kwargs)


def _pick(x: Tensor, live: Tensor, dim: int) -> Tensor:
    """Some channels of images; of planes, channels-last."""
    if x.dim() != 4:
        return x.index_select(dim, live)
    number, _, height, width = x.shape
    picked = torch.empty(
        (number, len(live), height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    for start in range(0, number, _PICKED):
        picked[start : start + _PICKED].copy_(x[start : start + _PICKED].index_select(dim, live))
    return picked


def _passed_on(norm: fx.Node, layer: str, env: Env) -> Any:
    """What a batch norm gives that has been folded into a layer."""
    return env[layer] if "native" not in str(norm.target) else (env[layer], None, None)


def _overwrites(node: fx.Node, prefix: Prefix) -> str | None:
    """The value that a ReLU alone reads and that was made for it; None where there is none."""
    source = node.args[0] if node.args else None
    if str(node.target) != "aten.relu.default" or not isinstance(source, fx.Node):
        return None
    made = str(source.target) in EPS or str(source.target).startswith(("aten.conv", "aten.linear"))
    return source.name if made and source.name in prefix.changing and len(source.users) == 1 else None


def _overwritten(source: str, env: Env) -> Tensor:
    result: Tensor = env[source].relu_()
    return result
