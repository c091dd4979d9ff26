"""Times a training step of FBS against the dense network's, alternating: the machine's drift meets both.

    python tests/benchmarks/fbs_step.py           M-CifarNet, batch 128, bf16 autocast, channels_last, 1 thread
    python tests/benchmarks/fbs_step.py --threads 3 --batch 256 --network resnet20 --precision 32

A step is forward, loss with the method's penalty, backward, gradient clipping and the optimiser. Printed:
median milliseconds of both, and the median over the rounds of FBS / dense. The target is at most 1.3.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from compressor.methods.base import Method
from compressor.methods.fbs import FBS


def stepper(method: Method, model: nn.Module, images: Tensor, *, bf16: bool) -> Callable[[], float]:
    """Returns a function that makes one training step and returns its milliseconds."""
    model = model.to(memory_format=torch.channels_last).train()
    labels = torch.arange(len(images)) % 10
    groups = method.parameters(model) or [{"params": list(model.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        penalty = method.penalty(model)
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return (time.perf_counter() - start) * 1e3

    return step


def main() -> None:
    """Runs the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(description="FBS training step against the dense step")
    parser.add_argument("--network", default="cifarnet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--precision", choices=["bf16", "32"], default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dense = models.build(arguments.network)
    images = torch.randn(arguments.batch, *models.input_size(arguments.network))
    images = images.contiguous(memory_format=torch.channels_last)
    method = FBS(density=arguments.density)
    bf16 = arguments.precision == "bf16"
    dense_step = stepper(Method(), dense, images, bf16=bf16)
    fbs_step = stepper(method, method.attach(dense, images[:2]), images, bf16=bf16)

    rounds = [(dense_step(), fbs_step()) for _ in range(arguments.rounds + 2)][2:]  # two plan the kernels
    dense_ms, fbs_ms = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(fbs / plain for plain, fbs in rounds)
    print(f"{arguments.network}, batch {arguments.batch}, {arguments.precision}, {arguments.threads} threads")
    print(f"dense {dense_ms:.1f} ms, FBS at density {arguments.density:g} {fbs_ms:.1f} ms, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
