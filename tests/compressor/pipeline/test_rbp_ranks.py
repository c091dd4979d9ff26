"""Two processes prune the channels that one process prunes, and have the same weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORKER = """
import sys
from pathlib import Path
import torch
from torch import nn
from compressor.data import load
from compressor.graph import trace
from compressor.methods.rbp import RBP
from compressor.pipeline.rbp import Recursion, recurse
from compressor.select import find_choices, parse_budget
from compressor.train import TrainSettings

torch.set_num_threads(1)
torch.manual_seed(0)
layers = [nn.Conv2d(1, 12, 3, stride=2), nn.ReLU()]
model = nn.Sequential(*layers, nn.Conv2d(12, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)).eval()
graph = trace(model, torch.zeros(2, 1, 8, 8))
run = Recursion(
    RBP(layer_epochs=1, share_epochs=1, bn_batches=2),
    graph,
    find_choices(graph, budget=parse_budget("macs=0.5x")),
    load("digits"),
    TrainSettings(batch_size=64, precision="32"),
    Path(sys.argv[1]) / "slim.pt",
)
slim, plan = recurse(run, model)
torch.save({"state": slim.state_dict(), "keep": plan.keep}, Path(sys.argv[1]) / f"result{sys.argv[2]}.pt")
"""


def test_two_processes_find_the_channels_of_one(tmp_path: Path, run_ranks: Callable[..., list[dict[str, Any]]]) -> None:
    (one,) = run_ranks(WORKER, tmp_path / "one", 1)
    first, second = run_ranks(WORKER, tmp_path / "two", 2)
    for folder in ("one", "two"):
        left = list((tmp_path / folder).glob("*.rbp[12].resume"))
        assert not left, "the state of a layer that is done is not left"
    assert first["keep"] == second["keep"] == one["keep"]
    assert sum(len(kept) for kept in one["keep"].values()) < 18
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
        # Sums over two shares are rounded differently; other images or noise would show at 1e-2.
        assert torch.allclose(value, one["state"][name], atol=1e-3), name
