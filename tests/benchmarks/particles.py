"""Structured pruning's search: how fast masks are evaluated, and how good the particle filter's masks are.

    python tests/benchmarks/particles.py --data cifar10:cifar10.npz             models/cifarnet_dense.pt, 1000 images
    python tests/benchmarks/particles.py --data digits --model dense.pt --part speed

Speed: masks a second of `Evaluator` against the naive way, which runs the whole network for every mask: the dense
network with the weights that read pruned channels set to 0, channels-last, in the same batches, in float32. With
`--precision bf16` masks are evaluated in bf16, as in a run that trains so; then the naive way in bf16 is timed as well.
Rounds alternate, so the machine's drift meets all; on one thread it is the processor's time, which other work on the
machine hardly lengthens. The evaluator's rate is that of a search of 200 masks (50 particles need 150 to 300): what is
computed once and kept is timed apart and shared out among them.

Masks: misclassification rates before any retraining, on the search's own images (held out of the training data) and on
the validation split, which the search never saw: the filter's mask, that of a filter that draws uniformly, the one that
keeps the largest L1 norms, and random ones. Half of each group's channels go.
"""

import argparse
import copy
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compressor import checkpoint
from compressor.data import Batch, Dataset, Loader, accuracy, load
from compressor.graph import ChannelGraph, trace
from compressor.methods.l1 import magnitudes
from compressor.methods.structured import Structured
from compressor.methods.structured_evaluator import Evaluator
from compressor.methods.structured_filter import search
from compressor.methods.structured_masks import Particles
from compressor.methods.structured_units import Target, channel_target, layer_masks, with_losses
from compressor.pipeline.structured.images import hold_out
from compressor.pipeline.train import split_seed_of
from compressor.train.memory import keep_freed_memory

_MASKS_OF_A_SEARCH = 200
_GROUPS = ["features.3.conv", "features.5.conv", "features.7.conv"]


@dataclass(frozen=True)
class Setting:
    """What is measured on."""

    model: nn.Module
    graph: ChannelGraph
    data: Dataset
    batches: list[Batch]
    bf16: bool

    def evaluator(self, target: Target, batches: list[Batch] | None = None) -> Evaluator:
        """Returns the evaluator of one group."""
        return Evaluator(
            self.model,
            batches or self.batches,
            self.data.task,
            searched=target.calls,
            aliases=self.graph.aliases,
            bf16=self.bf16,
        )


def random_masks(target: Target, number: int, seed: int) -> Particles:
    """Returns masks that prune what the target asks for."""
    rng = np.random.default_rng(seed)
    particles = np.zeros((number, target.block.size), dtype=np.int8)
    for particle in particles:
        particle[rng.choice(target.block.size, target.block.num_pruned, replace=False)] = 1
    return particles


class Naive:
    """Runs the whole network for every mask."""

    def __init__(self, on: Setting, *, bf16: bool) -> None:
        last = torch.channels_last
        self.model = copy.deepcopy(on.model).to(memory_format=last).eval()
        self.batches = [(images.contiguous(memory_format=last), labels) for images, labels in on.batches]
        self.bf16 = bf16

    @torch.no_grad()
    def errors(self, target: Target, particles: Particles) -> list[float]:
        """Returns the misclassification rates."""
        rates = []
        for masks in layer_masks([target], particles):
            before = {path: self.model.get_parameter(path).clone() for path, _ in masks}
            for (path, _), mask in masks.items():
                weight = self.model.get_parameter(path)
                assert mask.inputs is not None
                weight.mul_(mask.inputs.view(1, -1, *[1] * (weight.dim() - 2)))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                right = [accuracy(self.model(x), y).mean().item() for x, y in self.batches]
            rates.append(1 - float(np.mean(right)))
            for path, weight in before.items():
                self.model.get_parameter(path).copy_(weight)
        return rates


def speed(on: Setting, *, rounds: int, names: list[str]) -> None:
    """Prints masks a second, group by group."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    images = sum(len(x) for x, _ in on.batches)
    ways = [Naive(on, bf16=False), *([Naive(on, bf16=True)] if on.bf16 else [])]
    names = names or [group.name for group in on.graph.groups if group.frozen is None]
    print(
        f"speed: {images} images, batches of {len(on.batches[0][0])}, evaluator in {'bf16' if on.bf16 else 'float32'}"
    )
    print(
        "group                  evaluator/s  " + "  ".join(f"naive {'bf16' if w.bf16 else '32'}/s, times" for w in ways)
    )
    for group in map(on.graph.group, names):
        target = channel_target(on.graph, group, group.size // 2)
        few = random_masks(target, 3, seed=1)
        slow: list[list[float]] = [[] for _ in ways]
        fast: list[float] = []
        for _ in range(rounds):
            for naive, seconds in zip(ways, slow, strict=True):
                start = clock()
                slow_rates = naive.errors(target, few[:2])
                seconds.append((clock() - start) / 2)
            own = on.evaluator(target)  # exported outside of the clock
            start = clock()
            own.errors(layer_masks([target], few[:1]))
            first = clock() - start
            start = clock()
            fast_rates = own.errors(layer_masks([target], few))
            each = (clock() - start) / len(few)
            fast.append((max(0.0, first - each) + _MASKS_OF_A_SEARCH * each) / _MASKS_OF_A_SEARCH)
            assert np.abs(fast_rates[:2] - slow_rates).max() <= (0.02 if on.bf16 else 2 / images)  # near ties
        cells = [
            f"{1 / statistics.median(seconds):7.2f} {statistics.median(np.divide(seconds, fast).tolist()):12.2f}x"
            for seconds in slow
        ]
        print(f"{group.name:22} {1 / statistics.median(fast):11.2f}  {'  '.join(cells)}", flush=True)


def quality(on: Setting, *, particles: int, names: list[str]) -> None:
    """Prints rates of the filter's, the L1 and random masks."""
    scores = magnitudes(on.model, on.graph)
    val = list(on.data.batches("val", Loader(250)))[:4]
    settings = Structured(particles=particles).filter_settings()
    seen_images, unseen_images = (sum(len(x) for x, _ in batches) for batches in (on.batches, val))
    print(f"masks: rates on the {seen_images} images of the search | on {unseen_images} others, half of a group gone")
    print(
        "group                  dense          filter         drawn evenly   L1             random: median, best of 50"
    )
    for name in names:
        group = on.graph.group(name)
        target = channel_target(on.graph, group, group.size // 2)
        own, other = on.evaluator(target), on.evaluator(target, val)

        def errors(particles: Particles, own: Evaluator = own, target: Target = target) -> npt.NDArray[np.float64]:
            return own.errors(layer_masks([target], particles))

        guided = with_losses(target, on.model, scores)
        found, plain = (search([one.block], errors, settings, seed=[0]) for one in (guided, target))
        l1 = np.zeros(group.size, dtype=np.int8)
        l1[torch.argsort(scores[group.name])[: target.block.num_pruned].numpy()] = 1
        named = np.stack([np.zeros_like(l1), found.particle, plain.particle, l1])
        seen, unseen = (one.errors(layer_masks([target], named)) for one in (own, other))
        random = random_masks(target, 50, seed=2)
        seen_random, unseen_random = (one.errors(layer_masks([target], random)) for one in (own, other))
        cells = "  ".join(f"{a:.2%} | {b:.2%}" for a, b in zip(seen, unseen, strict=True))
        print(
            f"{group.name:22} {cells}  {np.median(seen_random):.2%} | {np.median(unseen_random):.2%}, "
            f"{seen_random.min():.2%}  ({found.evaluations} masks)",
            flush=True,
        )


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description="speed and quality of the particle filter's search")
    parser.add_argument("--model", type=Path, default=Path("models/cifarnet_dense.pt"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--particles", type=int, default=50)
    parser.add_argument("--groups", nargs="*", default=[], help="all for the speed, three for the masks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--part", choices=["speed", "masks", "both"], default="both")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    saved = checkpoint.load(arguments.model)
    model = checkpoint.rebuild(saved)
    data = load(arguments.data, seed=split_seed_of(saved, 0))
    _, batches = hold_out(data, arguments.images, seed=0)
    graph = trace(model, batches[0][0][:2])
    on = Setting(model, graph, data, batches, arguments.precision == "bf16")
    if arguments.part != "masks":
        speed(on, rounds=arguments.rounds, names=arguments.groups)
    if arguments.part != "speed":
        quality(on, particles=arguments.particles, names=arguments.groups or _GROUPS)


if __name__ == "__main__":
    main()
