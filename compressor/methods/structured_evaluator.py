"""Misclassification rates of many masks: what no mask changes is computed once.

    prefix   every value that does not depend on a masked layer; computed once per image and kept
    layer    a masked layer runs once per mask: x[:, live] and W[:, live] for channels, W * M for kernels and taps
    suffix   what depends on it runs for several masks at a time, side by side along the batch

Channel masks act where the channels are read. The layer that makes them, its batch norm and activation are part of the
prefix then: a cut channel is one that nobody reads, which is what shrinking makes of it.
"""

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from compressor.data import Batch, Metric, Task
from compressor.errors import MethodError
from compressor.methods.structured_program import Call, Env, Program, find_calls, read_program, run

__all__ = ["Evaluator", "LayerMask"]

# Images that go through the network side by side, and bytes of kept values; beyond, they are computed for every call.
_SIDE_BY_SIDE = 256
_KEPT_BYTES = 1 << 30
# Batch norms in evaluation, and which of their arguments is eps.
_NORMS = {"aten.batch_norm.default": 7, "aten._native_batch_norm_legit_no_training.default": 6}


@dataclass(frozen=True, eq=False)
class LayerMask:
    """What of one layer stays.

    Attributes:
        inputs: (in_channels,) booleans, the channels it still reads; None is all.
        weight: Booleans that broadcast to the weight's shape; None is all.
    """

    inputs: Tensor | None = None
    weight: Tensor | None = None


class Evaluator:
    """Gives the misclassification rates of a network under masks; the network is not changed.

    Args:
        model: In any mode; evaluated as in evaluation mode. Its weights are read when `errors` is called first.
        batches: (inputs, targets) of one size each, on the network's device.
        task: Its metric is one minus the rate.
        searched: Layers that masks will be given for.
        aliases: See `find_calls`.
        batch_statistics: Batch norms behind a masked layer take mean and variance from the batch, under each mask anew.
        bf16: Convolutions and products in bfloat16.

    Raises:
        GraphError: The network cannot be exported.
        MethodError: A layer is not in the exported network.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        task: Task,
        *,
        searched: Iterable[Call],
        aliases: Mapping[str, str] | None = None,
        batch_statistics: bool = False,
        bf16: bool = False,
    ) -> None:
        last = torch.channels_last  # what convolutions like best
        self._batches = [(x.contiguous(memory_format=last) if x.dim() == 4 else x, y) for x, y in batches]
        self._task, self._bf16 = task, bf16
        self._size = len(batches[0][0])
        program = read_program(model, batches[0][0])
        self._aliases = dict(aliases or {})
        calls = find_calls(program, self._aliases)
        if missing := [call for call in searched if call not in calls]:
            raise MethodError(f"no convolution or linear layer uses {', '.join(path for path, _ in missing)}")
        self._names = {call: calls[call].name for call in searched}
        self._prefix = _Prefix(program, [calls[call] for call in self._names])
        self.stack = max(1, _SIDE_BY_SIDE // self._size)
        self._suffix = _Suffix(program, self._prefix, self._names, batch_statistics)
        if self.stack > 1:
            wide = batches[0][0].repeat(self.stack, *[1] * (batches[0][0].dim() - 1))
            other = read_program(model, wide)
            if [node.name for node in other.nodes] == [node.name for node in program.nodes]:
                self._suffix = _Suffix(other, self._prefix, self._names, batch_statistics)
            else:  # its operators depend on the batch
                self.stack = 1
        self._kept: list[Env] | None = None

    def errors(
        self, masks: Sequence[Mapping[Call, LayerMask]], *, rank: int = 0, num_ranks: int = 1
    ) -> npt.NDArray[np.float64]:
        """Returns (n,) one minus the metric under each set of masks, in [0, 1]; 0 for those of other ranks.

        Masks are dealt out so that each is evaluated in the same company on any number of ranks.

        Raises:
            MethodError: The metric is not in [0, 1].
        """
        stacks = [range(start, min(start + self.stack, len(masks))) for start in range(0, len(masks), self.stack)]
        mine = stacks[rank::num_ranks]
        scores = {place: _Score(self._task) for stack in mine for place in stack}
        with torch.no_grad(), torch.autocast(self._batches[0][0].device.type, torch.bfloat16, enabled=self._bf16):
            for values, (_, targets) in zip(self._prefixes(), self._batches, strict=True):
                for stack in mine:
                    # Always the same size, as the operators were exported for it.
                    places = [*stack, *[stack[-1]] * (self.stack - len(stack))]
                    outputs = self._suffix.run(values, [masks[place] for place in places], self._size)
                    outputs = pytree.tree_map_only(Tensor, lambda v: v.float() if v.is_floating_point() else v, outputs)
                    for slot, place in enumerate(stack):
                        scores[place].add(_rows(outputs, slot * self._size, self._size), targets)
        result = np.zeros(len(masks))
        for place, score in scores.items():
            result[place] = 1.0 - score.value()
        if not ((result >= -1e-9) & (result <= 1 + 1e-9)).all():
            raise MethodError(
                f"masks are weighed by 1 - {self._task.name}, which must lie from 0 to 1; it came to "
                f"{result.min():g} to {result.max():g}: give a metric between 0 and 1"
            )
        return result.clip(0.0, 1.0)

    def _prefixes(self) -> Iterable[Env]:
        """The kept values of each batch."""
        if self._kept is None:
            first = self._prefix.run(self._batches[0][0])
            size = len(self._batches) * sum(v.nbytes for v in pytree.tree_leaves(first) if isinstance(v, Tensor))
            if size > _KEPT_BYTES:
                return (self._prefix.run(inputs) for inputs, _ in self._batches)
            self._kept = [first, *(self._prefix.run(inputs) for inputs, _ in self._batches[1:])]
        return self._kept


class _Prefix:
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


class _Suffix:
    """The part of a network that masks change; for several masks at a time."""

    def __init__(self, program: Program, prefix: _Prefix, names: Mapping[Call, str], anew: bool) -> None:
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
        self._norms = [node.name for node in self._changing if anew and str(node.target) in _NORMS]
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

        special = {name: functools.partial(self._masked, name, plain, masks, size) for name in self._layers}
        special |= {name: functools.partial(self._normalised, name, size) for name in self._norms}
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
        rest, kwargs = fx.map_arg((node.args[1:], node.kwargs), lambda n: env[n.name])
        shared = source.name in plain  # of the prefix, the same under each mask
        parts = [plain[source.name]] * len(masks) if shared else list(env[source.name].split(size))
        results = [
            _masked_layer(node, part, rest, kwargs, mask.get(call)) for part, mask in zip(parts, masks, strict=True)
        ]
        return results[0] if len(results) == 1 else torch.cat(results)

    def _normalised(self, name: str, size: int, env: Env) -> Any:
        """A batch norm with the statistics of what each mask leaves."""
        node = self._nodes[name]
        values: Any = [env[n.name] if isinstance(n, fx.Node) else n for n in node.args[:3]]
        x, scale, shift = values
        eps = node.args[_NORMS[str(node.target)]]
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
            x, weight = x.index_select(-1 if linear else 1, live), weight.index_select(1, live)
            if weight.dim() == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)  # so comes the result
        else:
            x = x * mask.inputs.view(-1, *[1] * (weight.dim() - 2)).to(x.dtype)
    assert callable(node.target)
    return node.target(x, weight, *others, **kwargs)


def _rows(values: Any, start: int, count: int) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[start : start + count], values)


class _Score:
    """The metric of one mask over all batches."""

    def __init__(self, task: Task) -> None:
        self._own = copy.deepcopy(task.metric) if isinstance(task.metric, Metric) else None
        if self._own is not None:
            self._own.reset()
        self._metric = task.metric
        self._sum, self._count = 0.0, 0

    def add(self, outputs: Any, targets: Any) -> None:
        if self._own is not None:
            self._own.update(outputs, targets)
            return
        assert not isinstance(self._metric, Metric)
        values = torch.as_tensor(self._metric(outputs, targets)).double()
        self._sum += values.mean().item()
        self._count += 1  # batches are of one size

    def value(self) -> float:
        return float(self._own.compute()) if self._own is not None else self._sum / self._count
