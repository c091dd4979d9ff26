"""Misclassification rates of many masks: what no mask changes is computed once.

The network is divided where the masks begin (`structured_parts`): values before them are kept, the rest runs for
several masks at a time.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compressor.data import Batch, Metric, Task
from compressor.errors import MethodError
from compressor.methods.structured_parts import LayerMask, Prefix, Suffix
from compressor.methods.structured_program import Call, Env, find_calls, read_program

__all__ = ["Evaluator", "LayerMask"]

# Images that go through the network side by side, and bytes of kept values; beyond, they are computed for every call.
_SIDE_BY_SIDE = 256
_KEPT_BYTES = 1 << 30


class Evaluator:
    """Gives the misclassification rates of a network under masks; the network is not changed.

    Args:
        model: In any mode; evaluated as in evaluation mode. Its weights must not change while this is used.
        batches: (inputs, targets) of one size each, on the network's device.
        task: Its metric is one minus the rate.
        searched: Layers that masks will be given for.
        aliases: See `find_calls`.
        batch_statistics: Batch norms behind a masked layer take mean and variance from the batch, under each mask anew.
        bf16: Convolutions and products in bfloat16: twice as fast where the machine has them, rates nearly the same.

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
        self._prefix = Prefix(program, [calls[call] for call in self._names])
        self.stack = max(1, _SIDE_BY_SIDE // self._size)
        self._suffix = Suffix(program, self._prefix, self._names, batch_statistics, bf16)
        if self.stack > 1:
            wide = batches[0][0].repeat(self.stack, *[1] * (batches[0][0].dim() - 1))
            other = read_program(model, wide)
            if [node.name for node in other.nodes] == [node.name for node in program.nodes]:
                self._suffix = Suffix(other, self._prefix, self._names, batch_statistics, bf16)
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
