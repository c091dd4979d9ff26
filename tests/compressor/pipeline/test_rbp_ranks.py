"""Two processes prune the channels that one process prunes, and have the same weights."""

import os
import socket
import subprocess
import sys
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


def work(folder: Path, *, num_ranks: int) -> list[dict[str, Any]]:
    """Prunes on so many processes and returns what each of them has."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranked = {
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    common = {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    processes = []
    for rank in range(num_ranks):
        own = {**ranked, "RANK": str(rank), "LOCAL_RANK": str(rank)} if num_ranks > 1 else {}
        command = [sys.executable, "-c", WORKER, str(folder), str(rank)]
        environment = {**os.environ, **common, **own}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * num_ranks, "\n".join(errors)
    assert not list(folder.glob("*.rbp[12].resume")), "the state of a layer that is done is not left"
    return [torch.load(folder / f"result{rank}.pt", weights_only=True) for rank in range(num_ranks)]


def test_two_processes_find_the_channels_of_one(tmp_path: Path) -> None:
    (one,) = work(tmp_path / "one", num_ranks=1)
    first, second = work(tmp_path / "two", num_ranks=2)
    assert first["keep"] == second["keep"] == one["keep"]
    assert sum(len(kept) for kept in one["keep"].values()) < 18
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
        # Sums over two shares are rounded differently; other images or noise would show at 1e-2.
        assert torch.allclose(value, one["state"][name], atol=1e-3), name
