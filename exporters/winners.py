"""Who wins in each FBS layer, in torch and in an ONNX file: tells a near tie from a wrong result.

Sums are formed in another order by every runtime, so saliencies differ by about 1e-6 of their size. Where the
last winner and the first loser are closer than that, both choices are right and the outputs legitimately
differ.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from exporters import opset
from exporters.nodes import is_op

__all__ = ["NEAR_TIE", "LayerWinners", "near_ties", "record_winners", "winner_outputs", "with_winner_outputs"]

NEAR_TIE = 1e-5
"""Saliencies closer than this fraction of the sample's largest are tied: ten times a float32 sum's noise."""


_NUM_WINNERS = 6
"""Place of k among the arguments of `compress::fbs_conv`."""


@dataclass(frozen=True)
class LayerWinners:
    """One FBS layer on one batch: saliencies, or their blocks' means, (N, K) and winners (N, k), ascending."""

    saliency: npt.NDArray[np.float32]
    winners: npt.NDArray[np.int64]


@contextmanager
def record_winners(
    model: nn.Module, imposed: Mapping[str, npt.NDArray[np.int64]] | None = None
) -> Iterator[dict[str, LayerWinners]]:
    """Yields a dict that takes, while `model` runs inside, each FBS layer's winners by module name.

    Args:
        model: Its FBS layers are `compress::fbs_conv`.
        imposed: Layer to winners (N, k) that are computed in place of its own; what the dict takes stays its own.
    """
    recorder = _Recorder(imposed or {})
    stack = recorder.scopes

    def leave(*_: object) -> None:
        stack.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _module, _inputs, name=name: stack.append(name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        with recorder:
            yield recorder.layers
    finally:
        for hook in hooks:
            hook.remove()


def with_winner_outputs(model: ModelProto) -> ModelProto:
    """A copy of `model` that hands out every J after its own outputs, in the order of `winner_outputs`."""
    result = ModelProto()
    result.CopyFrom(model)
    held = {value.name for value in result.graph.output}
    for name in winner_outputs(model).values():
        if name not in held:
            result.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, [None, None]))
    return result


def winner_outputs(model: ModelProto) -> dict[str, str]:
    """Layer name to the name of its J, for every FBS layer that chooses, in the file's order.

    J is the second output of one of `opset.FBS_LAYERS`, or of the TopK of a layer that `passes.spell_out_fbs` wrote.
    """
    found = {}
    for node in model.graph.node:
        if is_op(node, *opset.FBS_LAYERS):
            found[node.name] = node.output[1]
        elif node.op_type == "TopK" and node.name.endswith(opset.WINNERS):
            found[node.name.removesuffix(opset.WINNERS)] = node.output[1]
    return found


def near_ties(
    expected: Mapping[str, LayerWinners], found: Mapping[str, npt.NDArray[np.int64]], samples: int
) -> npt.NDArray[np.bool_]:
    """(N,) booleans: samples whose winners differ first in a layer where the swapped channels are tied.

    Layers behind the first difference work on other data; they say nothing. A sample without difference is
    False.

    Args:
        expected: From `record_winners`, in the order of execution.
        found: Node name to J of the file; a layer that is missing counts as equal.
        samples: N.
    """
    tied = np.zeros(samples, bool)
    settled = np.zeros(samples, bool)
    for name, layer in expected.items():
        for sample in np.flatnonzero(~settled) if name in found else ():
            lost = np.setdiff1d(layer.winners[sample], found[name][sample])
            if len(lost) == 0:
                continue
            settled[sample] = True
            gained = np.setdiff1d(found[name][sample], layer.winners[sample])
            values = layer.saliency[sample]
            gap = values[lost].max() - values[gained].min()
            tied[sample] = gap <= NEAR_TIE * np.abs(values).max()
    return tied


class _Recorder(TorchDispatchMode):
    """Sees every op; computes the saliencies of compress::fbs_conv from its arguments, and other winners if told to."""

    def __init__(self, imposed: Mapping[str, npt.NDArray[np.int64]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.imposed = imposed
        self.scopes: list[str] = []
        self.layers: dict[str, LayerWinners] = {}

    # Any: torch gives ops, types and arguments of every kind.
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == "compress::fbs_conv":
            name = self.scopes[-1] if self.scopes else ""
            calls = sum(key == name or key.startswith(f"{name}_") for key in self.layers)
            layer = name if calls == 0 else f"{name}_{calls + 1}"
            self.layers[layer] = _winners(*args)
            if layer in self.imposed:
                return _of_winners(func, args, self.imposed[layer])
        return func(*args, **(kwargs or {}))


def _of_winners(fbs_conv: Any, args: Any, winners: npt.NDArray[np.int64]) -> Tensor:  # Any: a torch op, its arguments
    """The layer with other winners: all channels are computed, as if all won, and the losers of these are 0."""
    everyone = len(args[1])
    dense: Tensor = fbs_conv(*args[:_NUM_WINNERS], everyone, *args[_NUM_WINNERS + 1 :])
    wins = torch.zeros(len(dense), everyone, dtype=torch.bool)
    wins.scatter_(1, torch.from_numpy(winners), True)
    return torch.where(wins.to(dense.device)[:, :, None, None], dense, 0)


def _winners(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    post_shift: Tensor | None,
    saliency_weight: Tensor,
    bias: Tensor,
    k: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    slope: float,
    normalize: bool,
    winner_block: int = 1,
) -> LayerWinners:
    saliency = torch.nn.functional.leaky_relu(
        torch.addmm(bias, x.abs().mean(dim=(2, 3)), saliency_weight), negative_slope=slope
    )
    if normalize:
        total = saliency.sum(dim=1, keepdim=True)
        saliency = saliency * (saliency.shape[1] / torch.where(total == 0, saliency.shape[1], total))
    if winner_block > 1:
        blocks = [saliency[:, first : first + winner_block] for first in range(0, saliency.shape[1], winner_block)]
        saliency = torch.cat([block.mean(dim=1, keepdim=True).expand_as(block) for block in blocks], dim=1)
    ranked = torch.sort(saliency, dim=1, descending=True, stable=True).indices[:, :k]
    return LayerWinners(saliency.cpu().numpy(), ranked.sort(dim=1).values.cpu().numpy())
