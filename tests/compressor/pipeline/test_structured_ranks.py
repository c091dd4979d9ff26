"""Two processes share the masks of a search and find what one process finds."""

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
from compressor.methods.structured import Structured
from compressor.pipeline.structured import Searches, search_all
from compressor.plan import PruningPlan
from compressor.select import Limits
from compressor.train import TrainSettings

torch.set_num_threads(1)
torch.manual_seed(0)
layers = [nn.Conv2d(1, 12, 3, stride=2), nn.ReLU()]
model = nn.Sequential(*layers, nn.Conv2d(12, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)).eval()
run = Searches(
    Structured(particles=12, steps=2, hold=2, images=150, layer_epochs=0, kernel_density=0.7, max_drop=1.0),
    trace(model, torch.zeros(2, 1, 8, 8)),
    {"0": 7},
    PruningPlan(),
    Limits(),
    load("digits"),
    TrainSettings(batch_size=65, precision="32"),
    Path(sys.argv[1]) / "slim.pt",
)
slim, plan, record = search_all(run, model)
kept = [(search["error"], search["evaluations"]) for search in record["searches"]]
torch.save({"state": slim.state_dict(), "keep": plan.keep, "kept": kept}, Path(sys.argv[1]) / f"result{sys.argv[2]}.pt")
"""


def test_two_processes_find_the_masks_of_one(tmp_path: Path, run_ranks: Callable[..., list[dict[str, Any]]]) -> None:
    (one,) = run_ranks(WORKER, tmp_path / "one", 1)
    for other in run_ranks(WORKER, tmp_path / "two", 2):
        assert other["keep"] == one["keep"]
        assert other["kept"] == one["kept"]
        assert all(torch.equal(value, one["state"][name]) for name, value in other["state"].items())
