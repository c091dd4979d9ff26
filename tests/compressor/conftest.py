"""What several test files share."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# command_line.py serves several files; importlib mode adds no folder to the path itself.
sys.path.insert(0, str(Path(__file__).parent))

RunRanks = Callable[[str, Path, int], list[dict[str, Any]]]


@pytest.fixture
def run_ranks() -> RunRanks:
    """Runs a worker's text on so many processes and returns what each has written.

    The worker gets a folder and its rank as arguments and writes `result{rank}.pt` into the folder, which is made here.
    One process runs as a user's does, without any of torchrun's variables.
    """

    def run(worker: str, folder: Path, num_ranks: int) -> list[dict[str, Any]]:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        ranked = {
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
        processes = []
        for rank in range(num_ranks):
            own = {**ranked, "RANK": str(rank), "LOCAL_RANK": str(rank)} if num_ranks > 1 else {}
            command = [sys.executable, "-c", worker, str(folder), str(rank)]
            environment = {**os.environ, **common, **own}
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * num_ranks, "\n".join(errors)
        return [torch.load(folder / f"result{rank}.pt", weights_only=True) for rank in range(num_ranks)]

    return run
