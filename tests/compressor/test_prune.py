import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressor import checkpoint
from compressor.data import load
from compressor.errors import CheckpointError, CompressorError, DataError, MethodError
from compressor.methods.fbs import layers
from compressor.pipeline.prune import PrunedNetwork, prune
from compressor.pipeline.train import train_dense
from compressor.train import Progress, TrainSettings, evaluate

FAST = TrainSettings(batch_size=64, peak_lr=0.05, clip_norm=5.0, precision="32")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "dense.pt"
    settings = TrainSettings(epochs=3, batch_size=64, precision="32", seed=3)
    train_dense("digitsnet", "digits", output=path, settings=settings)
    return path


def run(dense: Path, output: Path, **changes: object) -> PrunedNetwork:
    arguments = {"data": "digits", "density": 0.5, "epochs": 4, "settings": FAST, **changes}
    arguments.setdefault("method_settings", {"density_step": 0.25})
    return prune(dense, output=output, **arguments)


@pytest.fixture(scope="module")
def pruned(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> PrunedNetwork:
    return run(dense, tmp_path_factory.mktemp("pruned") / "slim.pt")


def test_accuracy_cost_and_curve_are_reported(pruned: PrunedNetwork) -> None:
    assert [point.density for point in pruned.curve] == [1.0, 0.75, 0.5, 0.5]
    assert pruned.kept_epoch in (3, 4)  # at the final density
    assert pruned.val_top1 == max(point.val_top1 for point in pruned.curve[2:])
    assert pruned.test_top1 > 0.5  # chance is 0.1
    savings = [point.saving for point in pruned.curve]
    assert savings == sorted(savings)
    assert savings[-1] == pytest.approx(pruned.dense_macs / pruned.cost.macs)
    assert savings[-1] > 3.5
    assert f"density 0.5, epoch {pruned.kept_epoch} of 4" in pruned.summary()
    with pruned.path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_top1"]) for row in rows] == [point.val_top1 for point in pruned.curve]


def test_11_checkpoint_brings_the_network_back_at_its_density(dense: Path, pruned: PrunedNetwork) -> None:
    saved = checkpoint.load(pruned.path)
    assert (saved.method, saved.density) == ("fbs", 0.5)
    assert saved.record == json.loads(json.dumps(saved.record))
    model = checkpoint.rebuild(saved)
    assert {layer.density for layer in layers(model).values()} == {0.5}
    # The split that the dense network was not trained on.
    dataset = load("digits", seed=3)
    assert evaluate(model, dataset, "val").top1 == saved.record["val_top1"] == pruned.val_top1
    assert evaluate(model, dataset, "test").top1 == saved.record["test_top1"]
    assert saved.record["before"]["test_top1"] == checkpoint.load(dense).record["test_top1"]


def test_nothing_is_left_beside_the_output(pruned: PrunedNetwork) -> None:
    assert sorted(path.name for path in pruned.path.parent.iterdir()) == ["slim.csv", "slim.pt"]


class KilledError(BaseException):
    """As Ctrl-C, no error: the state stays."""


class KillAfter(Progress):
    """Stops the run with the nth epoch's line."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def line(self, text: str) -> None:
        self.left -= text.startswith("epoch ")
        if self.left == 0:
            raise KilledError


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_killed_run_goes_on_to_the_same_result(
    dense: Path, pruned: PrunedNetwork, tmp_path: Path, killed_after: int
) -> None:
    output = tmp_path / "slim.pt"
    with pytest.raises(KilledError):
        run(dense, output, progress=KillAfter(killed_after))
    assert not output.exists()
    with pytest.raises(CheckpointError, match="other settings"):
        run(dense, output, resume=True, density=0.25, epochs=3)
    again = run(dense, output, resume=True)
    assert [replace(point, seconds=0.0) for point in again.curve] == [
        replace(point, seconds=0.0) for point in pruned.curve
    ]
    before, now = (checkpoint.load(path).state for path in (pruned.path, output))
    assert all(torch.equal(value, now[name]) for name, value in before.items())


def test_full_density_needs_no_way_down(dense: Path, tmp_path: Path) -> None:
    result = run(dense, tmp_path / "full.pt", density=1.0, epochs=1)
    assert [point.density for point in result.curve] == [1.0]
    assert result.cost.macs > result.dense_macs  # the predictors' own


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"data": None}, CompressorError, "add --data"),
        ({"density": None}, CompressorError, "add --density"),
        ({"density": 1.5}, MethodError, r"density=1\.5 is not in \(0, 1\]"),
        ({"epochs": 0}, CompressorError, "at least 1"),
        ({"method": "fsb"}, MethodError, "choose from: .*fbs"),
        ({"method_settings": {"lam": 1}}, MethodError, "its settings are: density, density_step"),
        ({"data": "nothing:x"}, DataError, "choose from"),
        ({"resume": True}, CheckpointError, "nothing to resume"),
    ],
    ids=str,
)
def test_unusable_arguments_are_refused_before_any_work(
    dense: Path, tmp_path: Path, changes: dict, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        run(dense, tmp_path / "slim.pt", **changes)
    assert not list(tmp_path.iterdir())


def test_only_trained_networks_are_pruned(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint .*compress train"):
        run(tmp_path / "absent.pt", tmp_path / "slim.pt")


def test_an_fbs_network_goes_on_from_its_density(pruned: PrunedNetwork, tmp_path: Path) -> None:
    still = replace(FAST, peak_lr=0.0)
    same = run(pruned.path, tmp_path / "same.pt", epochs=1, settings=still)
    before, after = (checkpoint.load(path).state for path in (pruned.path, same.path))
    weights = [name for name in before if "running_" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in weights)
    assert (same.dense_val_top1, same.dense_macs) == (pruned.dense_val_top1, pruned.dense_macs)
    # The images held out from the dense network (seed 3) stay held out, whatever the seeds of later runs.
    assert [checkpoint.load(path).record["split_seed"] for path in (pruned.path, same.path)] == [3, 3]
    lower = run(pruned.path, tmp_path / "lower.pt", density=0.25, epochs=2)
    assert [point.density for point in lower.curve] == [0.25, 0.25]
    with pytest.raises(MethodError, match="other form"):
        run(pruned.path, tmp_path / "other.pt", method_settings={"form": "released"})
    with pytest.raises(MethodError, match="other winner_block"):
        run(pruned.path, tmp_path / "other.pt", method_settings={"winner_block": 16})


def test_data_of_another_kind_is_refused(dense: Path, tmp_path: Path) -> None:
    changed = replace(checkpoint.load(dense), classes=("a", "b"))
    checkpoint.save(changed, tmp_path / "two.pt")
    with pytest.raises(DataError, match="10 classes, the network 2"):
        run(tmp_path / "two.pt", tmp_path / "slim.pt")
