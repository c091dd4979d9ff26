"""Several processes give one result: the same on each, from the same images as one process sees."""

import os
import socket
import subprocess
import sys
from pathlib import Path

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
torch.save(result, sys.argv[1])
assert evaluate(model, data.load("digits"), "val").top1 == record.val_top1
"""


def test_two_processes_agree(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-c", WORKER, str(tmp_path / f"{rank}.pt")]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["val_top1"] == second["val_top1"] > 0.5
    assert first["precision"] == "32 (several processes on the CPU)"
    different = [name for name in first["state"] if not torch.equal(first["state"][name], second["state"][name])]
    assert not different
