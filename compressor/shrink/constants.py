"""What cut channels still put out, added to the layers that read them.

A channel whose batch-norm scale is 0 is not 0: it puts out its shift. Before it is cut,

    bias'_o = bias_o + Σ_c m_c · Σ_taps W[o, c]        over the cut channels c, m_c their mean at the layer's input

keeps what the next layer adds up. Exact for constant channels in layers without padding; with padding the border
differs, and of a channel that is not constant the mean is kept, the rest is lost. A layer without a bias takes the
sum in the batch norm that it alone feeds (running_mean' = running_mean − sum); with neither it is left out.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn

from compressor.graph import ChannelGraph
from compressor.graph.cut import Keep, kept_places
from compressor.plan import PruningPlan
from compressor.shrink.masks import kept_units

__all__ = ["fold_constants"]

_Convolutions = nn.Conv1d | nn.Conv2d | nn.Conv3d


def fold_constants(model: nn.Module, graph: ChannelGraph, plan: PruningPlan, images: torch.Tensor) -> nn.Module:
    """Returns a dense copy whose readers of cut channels have taken in the means of those channels.

    Shrink it with the same plan: ``shrink(fold_constants(model, graph, plan, images), graph, plan)``.

    Args:
        model: the dense network.
        graph: its channel graph.
        plan: the plan to be carried out.
        images: (N, C, H, W), what the means are measured on.

    Raises:
        PlanError: the plan does not fit the graph.
    """
    keep = kept_units(graph, plan)
    folded = copy.deepcopy(model)
    norm_of = {layer.name: layer.norm for layer in graph.layers}
    sums: dict[str, torch.Tensor] = {}
    hooks = [
        folded.get_submodule(name).register_forward_pre_hook(_measure(name, cut, sums))
        for name, cut in _readers(folded, graph, keep).items()
    ]
    modes = {module: module.training for module in folded.modules()}
    with torch.no_grad():
        folded.eval()(images)
        for hook in hooks:
            hook.remove()
        for name, added in sums.items():
            layer, norm = folded.get_submodule(name), norm_of.get(name)
            if isinstance(layer.bias, torch.Tensor):
                layer.bias += added
            elif norm is not None:
                statistics = getattr(folded.get_submodule(norm), "running_mean", None)
                if isinstance(statistics, torch.Tensor):
                    statistics -= added
    for module, training in modes.items():
        module.training = training
    return folded


def _readers(model: nn.Module, graph: ChannelGraph, keep: Keep) -> dict[str, torch.Tensor]:
    """Returns layer → (in_channels,) 1 where the layer loses a channel it reads; layers called once only."""
    calls = [layer.name for layer in graph.layers]
    found = {}
    for layer in graph.layers:
        if not layer.macs or calls.count(layer.name) > 1:
            continue
        module = dict(model.named_modules()).get(layer.name)
        depthwise = layer.groups > 1 and layer.groups == len(layer.inputs)
        if not isinstance(module, _Convolutions | nn.Linear) or depthwise:
            continue
        cut = torch.ones(len(layer.inputs), dtype=module.weight.dtype, device=module.weight.device)
        cut[torch.as_tensor(kept_places(layer.inputs, keep), device=cut.device)] = 0
        if cut.any():
            found[layer.name] = cut
    return found


def _measure(name: str, cut: torch.Tensor, sums: dict[str, torch.Tensor]) -> Callable[[nn.Module, tuple[object]], None]:
    """Returns a hook that writes what the cut channels add to each output of a layer, on average, away from borders."""

    def hook(module: nn.Module, inputs: tuple[object]) -> None:
        (data,) = inputs
        assert isinstance(data, torch.Tensor)
        assert isinstance(module, _Convolutions | nn.Linear)
        weight = module.weight
        if isinstance(module, nn.Linear):
            mean = data.flatten(0, -2).mean(0) if data.dim() > 1 else data
            sums[name] = weight @ (mean * cut)
            return
        taps = weight.dim() - 2
        mean = data.movedim(-1 - taps, 0).flatten(1).mean(1) * cut
        kernel = weight.flatten(2).sum(2)  # (out, in / groups)
        parts = mean.reshape(module.groups, -1)
        rows = kernel.reshape(module.groups, -1, kernel.shape[1])
        sums[name] = torch.einsum("goi,gi->go", rows, parts).flatten()

    return hook
