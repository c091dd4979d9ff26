"""Does alignment turn fewer multiplications into less time? Networks cut by the same share, with and without it.

    python tests/benchmarks/alignment.py [--cut 0.1,0.3,0.5] [--rounds 15] [--ways any,step,time,peer] [--pad] [NAME …]

Each network (random weights and batch-norm statistics, 224×224) is cut by l1 scores at a density of 1 − cut: widths
as they come (`any`); multiples of the step of this machine (`step`); of those the fastest plan by the built-in rates
that cuts as much (`time`: the same density and MACs within 2 %, at most 2 % more score lost), which is what `--align
auto` does; and by torch-pruning (`peer`), where it is installed, the same share of every layer. All files are exported
and checked against torch (1e-4) by `exporters`, then run by ONNX Runtime on one thread, taking turns; the best of all
rounds counts, in processor time of the thread, which other work on the machine hardly touches. With `--pad` each
network comes a second time (`+0`), with the channels of zeros that `compress export` adds to widths that ONNX Runtime
handles badly. Columns: MACs ratio, latency ratio, latency ratio ÷ MACs ratio.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

from compressor.costs.latency import latency_of
from compressor.costs.operations import operations
from compressor.costs.rates import BUILT_IN
from compressor.graph import trace
from compressor.methods.l1 import magnitudes
from compressor.pipeline.padding import pad_widths
from compressor.select import STEPS, Clock, machine_target, parse_budget, select
from compressor.shrink import shrink
from exporters import export

NAMES = """resnet18 resnet50 vgg16_bn mobilenet_v2 mobilenet_v3_large efficientnet_b0 mnasnet1_0 densenet121 googlenet
regnet_y_800mf"""
IMAGE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def network(name: str) -> nn.Module:
    """Returns a network with random weights and statistics, so that nothing is constant by accident."""
    torch.manual_seed(0)
    settings = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **settings).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
    return model


def peer(model: nn.Module, share: float) -> nn.Module | None:
    """Returns the network cut by torch-pruning, as its own benchmark does; None where it is not installed."""
    try:
        import torch_pruning as tp  # optional, never a dependency
    except ImportError:
        return None
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    importance = tp.importance.MagnitudeImportance(p=1)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    tp.pruner.MagnitudePruner(model, IMAGE, importance, pruning_ratio=share, ignored_layers=last).step()
    return model.eval()


def macs_of(model: nn.Module) -> int:
    """Returns multiply-accumulates of all convolutions and linear layers."""
    return sum(layer.macs for layer in trace(model, IMAGE).layers)


def latencies_ms(paths: list[Path], rounds: int) -> list[float]:
    """Returns the best processor time of each file, all taking turns on one thread."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    sessions = [onnxruntime.InferenceSession(str(p), settings, providers=["CPUExecutionProvider"]) for p in paths]
    best = np.full(len(paths), np.inf)
    for turn in range(rounds + 2):  # two to warm up
        for i, session in enumerate(sessions):
            start = time.thread_time()
            session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()})
            if turn > 1:
                best[i] = min(best[i], time.thread_time() - start)
    return [float(seconds) * 1e3 for seconds in best]


def measure(name: str, share: float, rounds: int, ways: list[str], pad: bool) -> None:
    """Prints one line per way of cutting."""
    dense = network(name)
    graph = trace(dense, IMAGE)
    scores = magnitudes(dense, graph)
    budget, step = parse_budget(f"density={1 - share:.4g}"), STEPS[machine_target()]
    cut: dict[str, nn.Module | None] = {"dense": dense}
    if "any" in ways:
        cut["as they come"] = shrink(dense, graph, select(graph, scores, budget=budget))
    if "step" in ways:
        cut[f"multiples of {step}"] = shrink(dense, graph, select(graph, scores, budget=budget, step=step))
    rates = BUILT_IN.get(machine_target())
    if "time" in ways and rates is not None:
        clock = Clock(latency_of(operations(dense, graph, IMAGE), rates), rates.source)
        cut[f"{step}, by time"] = shrink(dense, graph, select(graph, scores, budget=budget, step=step, clock=clock))
    if "peer" in ways:
        cut["torch-pruning"] = peer(network(name), share)
    models = {label: model for label, model in cut.items() if model is not None}
    if pad:
        wide = {f"{label} +0": pad_widths(model, IMAGE) for label, model in models.items()}
        models |= {label: padded.model for label, padded in wide.items() if padded is not None}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.onnx" for i in range(len(models))]
        for model, path in zip(models.values(), paths, strict=True):
            export(model, IMAGE, path)
        times = latencies_ms(paths, rounds)
    macs = [macs_of(model) for model in models.values()]
    for label, ms, count in zip(models, times, macs, strict=True):
        faster, fewer = times[0] / ms, macs[0] / count
        row = f"{name:18s} {share:4.0%} {label:18s} {ms:8.2f} ms   MACs {fewer:5.2f}x"
        print(f"{row}   latency {faster:5.2f}x   {faster / fewer:5.2f}", flush=True)


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES.split())
    parser.add_argument("--cut", default="0.1,0.3,0.5")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ways", default="any,step,time,peer")
    parser.add_argument("--pad", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.names:
        for share in arguments.cut.split(","):
            measure(name, float(share), arguments.rounds, arguments.ways.split(","), arguments.pad)


if __name__ == "__main__":
    main()
