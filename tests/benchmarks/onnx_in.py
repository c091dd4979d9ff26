"""Torchvision networks through both of torch's exporters and back: how far from the file, how many channels can be cut.

    python tests/benchmarks/onnx_in.py
    python tests/benchmarks/onnx_in.py --networks resnet18,vgg16_bn --side 224

Weights are random, batch-norm statistics as of a trained network. One row per network and exporter: largest difference
from the file in ONNX Runtime as a fraction of the largest output (ordinary, extreme and empty inputs, one and several
images), seconds to read the file, groups of channels, those frozen besides input and output, removable branches.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torchvision
from torch import nn

from compressor import checkpoint
from compressor.graph import trace
from compressor.pipeline.onnx_file import Inputs, open_onnx

NETWORKS = "resnet18,mobilenet_v2,vgg16_bn,densenet121"
INPUTS = Inputs((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def write(network: nn.Module, path: Path, side: int, *, dynamo: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(2, 3, side, side),), str(path), dynamo=dynamo, verbose=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--side", type=int, default=224)
    chosen = parser.parse_args()
    print("network              exporter     difference  seconds  groups  frozen  branches")
    for name in chosen.networks.split(","):
        for dynamo in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name}.onnx"
                write(network_of(name), path, chosen.side, dynamo=dynamo)
                start = time.perf_counter()
                saved = open_onnx(path, inputs=INPUTS)
                seconds = time.perf_counter() - start
                graph = trace(checkpoint.rebuild(saved), torch.zeros(2, *saved.preprocessing.size))
            frozen = sum(group.frozen not in (None, "network input", "network output") for group in graph.groups)
            print(
                f"{name:<20} {'torch.export' if dynamo else 'TorchScript':<12} {saved.record['max_difference']:>10.1e} "
                f"{seconds:>8.1f} {len(graph.groups):>7} {frozen:>7} {len(graph.branches):>9}",
                flush=True,
            )


if __name__ == "__main__":
    main()
