"""Two processes prune as one does: the same images in a mini-batch, the same statistics, the same masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compressor.plan import plan_from_json

WORKER = """
import sys
from pathlib import Path
import torch
from torch import nn
from compressor import data
from compressor.data import Dataset, Preprocessing, TensorSplit
from compressor.graph import trace
from compressor.methods.gate_decorator import GateDecorator
from compressor.pipeline.gate_decorator import TickTock, tick_tock
from compressor.plan import plan_to_json
from compressor.select import find_choices, parse_budget
from compressor.train import TrainSettings

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
labels = torch.arange(96) % 3
images = torch.randint(0, 120, (96, 1, 8, 8), generator=generator)
images += 60 * labels[:, None, None, None] * (torch.arange(8) < 4)
splits = [TensorSplit(images[i : i + 48].to(torch.uint8), labels[i : i + 48]) for i in (0, 48, 48)]
dataset = Dataset("bands", ("a", "b", "c"), Preprocessing((0.3,), (0.2,), (1, 8, 8)), *splits)
torch.manual_seed(1)
blocks = [m for i, o in ((1, 12), (12, 16)) for m in (nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())]
model = nn.Sequential(*blocks, nn.Conv2d(16, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
for module in model.modules():
    if isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight, 0.2, 1.0)
        nn.init.uniform_(module.bias, -0.1, 0.1)
gates = GateDecorator(prune_fraction=0.08, ticks_per_tock=2, tock_epochs=1, tick_lr=0.01, tock_lr_max=0.05)
graph = trace(model, torch.zeros(2, 1, 8, 8))
run = TickTock(
    gates=gates,
    graph=graph,
    choices=find_choices(graph, budget=parse_budget("macs=0.5x"), min_keep=gates.min_keep),
    dataset=dataset,
    settings=TrainSettings(batch_size=16, precision="32"),
    output=Path(sys.argv[1]) / "slim.pt",
)
folded, plan = tick_tock(run, model)
result = {"plan": plan_to_json(plan), "state": folded.state_dict()}
torch.save(result, Path(sys.argv[1]) / f"result{sys.argv[2]}.pt")
"""


def test_two_processes_find_the_masks_of_one(tmp_path: Path, run_ranks: Callable[..., list[dict[str, Any]]]) -> None:
    (one,) = run_ranks(WORKER, tmp_path / "one", 1)
    first, second = run_ranks(WORKER, tmp_path / "two", 2)
    assert first["plan"] == second["plan"] == one["plan"]
    assert sum(len(kept) for kept in plan_from_json(one["plan"]).keep.values()) < 36
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
        # Sums over two shares are rounded differently; a different image would show at 1e-2.
        assert torch.allclose(value, one["state"][name], atol=1e-3), name
