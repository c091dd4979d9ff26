from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import compress

from compressor import checkpoint
from compressor.costs.latency import planned_latency_ms
from compressor.costs.operations import operations
from compressor.costs.rates import BUILT_IN
from compressor.graph import trace

TARGET = "onnxruntime-avx512"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "dense.pt"
    words = ("train", "--arch", "digitsnet", "--data", "digits", "--epochs", 1, "--precision", "32")
    assert compress(*words, "-o", path) == 0
    return path


def predicted_ms(path: Path) -> float:
    model = checkpoint.rebuild(checkpoint.load(path))
    image = torch.zeros(2, 1, 8, 8)
    graph = trace(model, image)
    counts = np.array([group.size for group in graph.groups], dtype=np.int64)
    return planned_latency_ms(operations(model, graph, image), BUILT_IN[TARGET], counts)


def test_a_latency_budget_is_met_and_says_by_whose_times(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slim = dense.with_name("slim.pt")
    words = ("prune", dense, "--method", "l1", "--data", "digits", "--epochs", 0, "--budget", "latency=0.7x")
    assert compress(*words, "--align", TARGET, "-o", slim) == 0
    said = "".join(capsys.readouterr())
    assert f"times of {TARGET}" in said
    assert "the dense network's speed here" in said  # what was measured, beside what was predicted
    assert checkpoint.load(slim).record["times"] == TARGET
    assert predicted_ms(slim) == pytest.approx(0.7 * predicted_ms(dense), rel=0.02)


def test_without_times_there_is_no_latency_budget(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("prune", dense, "--method", "l1", "--data", "digits", "--epochs", 0, "--budget", "latency=0.7x")
    assert compress(*words, "--align", "off", "-o", dense.with_name("no.pt")) == 1
    assert "compress profile" in capsys.readouterr().err.splitlines()[-1]
    assert not dense.with_name("no.pt").exists()
