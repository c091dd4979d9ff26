"""Traces and cuts every torchvision network of a list; prints seconds, units, reasons and the largest difference.

    python tests/benchmarks/graph_sweep.py [NAME …]

The difference is the invariant of `shrink` in double precision: dense with the cut channels silenced against shrunk,
random plans of two seeds, relative to the largest output.
"""

import sys
import time
from collections import Counter

import numpy as np
import torch
import torchvision
from torch.utils import _pytree as pytree

from compressor.graph import ChannelGraph, trace
from compressor.plan import PruningPlan
from compressor.shrink import shrink, silence

NAMES = """alexnet vgg11 vgg16_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 googlenet inception_v3
mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf
shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 mnasnet1_0 convnext_tiny fcn_resnet50
deeplabv3_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large swin_t vit_b_32 maxvit_t"""
SIZES = {"inception_v3": 299, "vit_b_32": 224, "maxvit_t": 224}


def random_plan(graph: ChannelGraph, seed: int) -> PruningPlan:
    """Keeps a random number of random units of every group that may be cut."""
    generator = np.random.default_rng(seed)
    keep = {}
    for group in graph.groups:
        if group.frozen is None and group.size > 1:
            kept = generator.choice(group.size, int(generator.integers(1, group.size)), replace=False)
            keep[group.name] = tuple(sorted(kept.tolist()))
    return PruningPlan(keep, {name: graph.group(name).size for name in keep})


def difference(model: torch.nn.Module, graph: ChannelGraph, image: torch.Tensor) -> float:
    """Returns the largest relative difference between silenced and shrunk over two random plans."""
    worst = 0.0
    with torch.no_grad():
        for seed in range(2):
            plan = random_plan(graph, seed)
            want = pytree.tree_leaves(silence(model, graph, plan)(image))
            got = pytree.tree_leaves(shrink(model, graph, plan)(image))
            for w, g in zip(want, got, strict=True):
                worst = max(worst, float((w - g).abs().max() / w.abs().max()))
    return worst


def main(names: list[str]) -> None:
    """Prints one line per network."""
    print(f"{'network':28s} {'seconds':>7s} {'groups':>6s} {'units':>6s} {'free':>6s} {'difference':>10s}  frozen")
    for name in names:
        torch.manual_seed(0)
        settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        if any(part in name for part in ("fcn", "deeplab", "lraspp")):
            settings = {"weights_backbone": None}
        model = torchvision.models.get_model(name, weights=None, **settings).double().eval()
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and (tensor.std() < 1e-3 or "scale" in key or tensor.dim() < 2):
                torch.nn.init.uniform_(tensor, 0.3, 1.0)  # so that every channel shows in the output
        size = SIZES.get(name, 96)
        image = torch.randn(2, 3, size, size, dtype=torch.float64)
        start = time.perf_counter()
        graph = trace(model, image[:1])
        seconds = time.perf_counter() - start
        why = Counter[str]()
        for group in graph.groups:
            if group.frozen is not None:
                why[group.frozen.split(" (")[0]] += group.size
        free = sum(g.size for g in graph.groups if g.frozen is None)
        apart = difference(model, graph, image)
        row = f"{name:28s} {seconds:7.2f} {len(graph.groups):6d} {graph.num_units:6d} {free:6d} {apart:10.1e}"
        print(row, dict(why), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES.split())
