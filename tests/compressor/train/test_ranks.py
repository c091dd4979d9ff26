"""Several processes give one result: the same on each, from the same images as one process sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORKER = """
import sys
import torch
from compressor import data
from compressor.train import TrainSettings, evaluate, train
import models

torch.set_num_threads(1)
torch.manual_seed(0)
model = models.build("digitsnet")
settings = TrainSettings(epochs=4, batch_size=65, peak_lr=0.1)
record = train(model, data.load("digits"), settings=settings)
result = {"state": model.state_dict(), "val_top1": record.val_top1, "precision": record.precision}
torch.save(result, f"{sys.argv[1]}/result{sys.argv[2]}.pt")
assert evaluate(model, data.load("digits"), "val").top1 == record.val_top1
"""


def test_two_processes_agree(tmp_path: Path, run_ranks: Callable[..., list[dict[str, Any]]]) -> None:
    first, second = run_ranks(WORKER, tmp_path / "two", 2)
    assert first["val_top1"] == second["val_top1"] > 0.5
    assert first["precision"] == "32 (several processes on the CPU)"
    different = [name for name in first["state"] if not torch.equal(first["state"][name], second["state"][name])]
    assert not different
