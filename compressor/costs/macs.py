"""Multiply-accumulates of a network, with the channels that FBS leaves out left out everywhere downstream.

The network is exported and run on sample inputs; each tensor carries which of its channels can differ from 0 in each
sample (`compressor.costs.live`), and a layer pays for those only. An FBS layer with C input channels of which `live`
are live, K output channels and k winners pays (Gao et al., ICLR 2019; counted as in their code)

    live * k * kh*kw * H'*W'   convolution      live * k   predictor      K * H'*W'   scaling

Three counts, all per sample:

    macs            winners are k channels (the budget); on a residual sum the measured union of the branches
    effective_macs  winners with saliency 0 output 0 and count as left out too
    paper_macs      a residual sum counts as no more live than its most live branch, which is how the paper's
                    figure for ResNet-18 comes out; never below the truth of a plain chain, optimistic on
                    residual networks
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressor.costs.live import Live, LiveChannels, op_name
from compressor.errors import GraphError
from compressor.graph.pairs import evaluating
from compressor.graph.program import quiet

__all__ = ["LayerCost", "ModelCost", "count_macs"]


@dataclass(frozen=True)
class LayerCost:
    """One convolution, linear layer or matrix product; multiply-accumulates per sample, see the module.

    Attributes:
        name: module name, or the graph's node name where there is no module.
        kind: `conv`, `linear`, `fbs` or `matmul`.
        dense_macs: without leaving anything out and without FBS's own overhead.
        winners: of how many output channels an FBS layer computes; None for others.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    winners: int | None
    dense_macs: float
    macs: float
    effective_macs: float
    paper_macs: float


@dataclass(frozen=True)
class ModelCost:
    """A network's cost per sample.

    Attributes:
        layers: in the order of computation; a layer used twice stands there twice.
        parameters: all of them, batch norms and predictors included.
    """

    layers: tuple[LayerCost, ...]
    parameters: int
    dense_macs: float
    macs: float
    effective_macs: float
    paper_macs: float


def count_macs(model: nn.Module, example: Tensor) -> ModelCost:
    """Returns the multiply-accumulates of `model` in evaluation, mean over the samples of `example`.

    Args:
        model: dense or with FBS layers; stays as it is.
        example: (N, C, H, W). Counts of a plain chain do not depend on its values; unions of branches and
            effective winners do, so give real images for those.

    Raises:
        GraphError: the network cannot be exported.
    """
    with evaluating(model), torch.no_grad():
        try:
            with quiet():
                program = torch.export.export(model, (example,), strict=False)
        except Exception as error:  # torch.export raises many kinds; the cause is kept
            raise GraphError(f"{type(model).__name__} cannot be exported, so its MACs cannot be counted") from error
        counter = _Counter(program.module(check_guards=False))
        counter.run(example)
    layers = tuple(counter.layers)
    return ModelCost(
        layers=layers,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dense_macs=sum(layer.dense_macs for layer in layers),
        macs=sum(layer.macs for layer in layers),
        effective_macs=sum(layer.effective_macs for layer in layers),
        paper_macs=sum(layer.paper_macs for layer in layers),
    )


class _Counter(LiveChannels):
    """Notes the cost of every layer besides the live channels of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.layers: list[LayerCost] = []

    def follow(self, node: fx.Node, out: Tensor) -> Live | None:
        """As in every network, and notes the cost of a layer."""
        layer = _LAYERS.get(op_name(node))
        return super().follow(node, out) if layer is None else layer(self, node, out)

    def add_layer(self, node: fx.Node, kind: str, *, sizes: tuple[int, int], dense: float, live: Live | None) -> None:
        """Notes a layer that pays in proportion to its live inputs."""
        shares = (1.0, 1.0, 1.0) if live is None else (_share(live.budget), _share(live.effective), live.fraction)
        budget, effective, paper = (dense * share for share in shares)
        name = _module_name(node.args[1], "weight") or node.name
        self.layers.append(LayerCost(name, kind, *sizes, None, dense, budget, effective, paper))


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()


def _module_name(argument: Any, attribute: str) -> str | None:
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    module, _, name = str(argument.target).rpartition(".")
    return module if name == attribute else None


def _fbs(counter: _Counter, node: fx.Node, out: Tensor) -> Live:
    x, weight, _, _, predictor, bias, winners, _, _, _, slope, normalize, *block = (counter.value(a) for a in node.args)
    # The method's own rule, through torch's registry: costs know methods by their ops only.
    scores, mask = torch.ops.compress.fbs_winners(x, predictor, bias, winners, slope, normalize, *block)
    result = Live(mask, mask & (scores != 0), winners / weight.shape[0])
    source = counter.live(node.args[0])
    num_out, num_in, taps = weight.shape[0], weight.shape[1], weight[0, 0].numel()
    pixels = out[0, 0].numel()
    per_pair = taps * pixels + 1  # one product for the predictor
    live_in = torch.full((len(x),), float(num_in), device=x.device)
    budget_in = live_in if source is None else source.budget.sum(dim=1)
    effective_in = live_in if source is None else source.effective.sum(dim=1)
    paper_in = num_in * (1.0 if source is None else source.fraction)
    scaling = num_out * pixels
    counter.layers.append(
        LayerCost(
            name=_module_name(node.args[4], "saliency_weight") or node.name,
            kind="fbs",
            in_channels=num_in,
            out_channels=num_out,
            winners=winners,
            dense_macs=float(num_in * num_out * taps * pixels),
            macs=budget_in.double().mean().item() * winners * per_pair + scaling,
            effective_macs=(effective_in * result.effective.sum(dim=1)).double().mean().item() * per_pair + scaling,
            paper_macs=paper_in * winners * per_pair + scaling,
        )
    )
    return result


def _convolution(counter: _Counter, node: fx.Node, out: Tensor) -> None:
    weight, source = counter.value(node.args[1]), counter.value(node.args[0])
    transposed = "transpose" in op_name(node)
    pixels = (source if transposed else out)[0, 0].numel()
    channels = source.shape[1] if transposed else out.shape[1]
    dense = float(pixels * channels * weight[0].numel())
    counter.add_layer(node, "conv", sizes=(source.shape[1], out.shape[1]), dense=dense, live=counter.live(node.args[0]))


def _linear(counter: _Counter, node: fx.Node, out: Tensor) -> None:
    num_out, num_in = counter.value(node.args[1]).shape
    dense = float(out[0].numel() * num_in)
    live = counter.live(node.args[0]) if out.ndim == 2 else None
    counter.add_layer(node, "linear", sizes=(num_in, num_out), dense=dense, live=live)


def _matmul(counter: _Counter, node: fx.Node, out: Tensor) -> None:
    inner = counter.value(node.args[0]).shape[-1]
    dense = float(out.numel() // max(1, out.shape[0]) * inner)
    counter.add_layer(node, "matmul", sizes=(inner, out.shape[-1]), dense=dense, live=None)


# A layer gets the counter, the node and its result, and returns the result's live channels (None: all).
_LAYERS: dict[str, Callable[[_Counter, fx.Node, Tensor], Live | None]] = {
    "compress.fbs_conv": _fbs,
    **{f"aten.conv{kind}": _convolution for kind in ("1d", "2d", "3d", "_transpose2d", "_transpose1d")},
    "aten.linear": _linear,
    **{f"aten.{name}": _matmul for name in ("mm", "bmm", "matmul")},
}
