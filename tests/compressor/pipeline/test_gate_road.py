"""`compress prune` with methods that train before they cut: whole roads on the digits, killed and resumed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import compress

from compressor import checkpoint
from compressor.data import load
from compressor.errors import BudgetError, CheckpointError
from compressor.methods.fbs import layers
from compressor.pipeline import slim as slim_road
from compressor.pipeline.planned import Wishes
from compressor.pipeline.prune import prune
from compressor.pipeline.slim import SlimNetwork, slim
from compressor.pipeline.speedup import MeasuredSpeedup
from compressor.pipeline.train import train_dense
from compressor.select import Limits, parse_budget
from compressor.train import TrainSettings, evaluate

NETWORK = """
from torch import nn

class Tiny(nn.Sequential):
    input_size = (1, 8, 8)

def tiny(num_classes):
    layers = []
    for inputs, outputs, stride in ((1, 8, 1), (8, 16, 2), (16, 16, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return Tiny(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
"""
SETTINGS = TrainSettings(batch_size=128, peak_lr=0.05, precision="32")
METHODS = {
    "gate-decorator": {"prune_fraction": 0.1, "tick_images": 256, "ticks_per_tock": 2, "tock_epochs": 1},
    "slimming": {"sparse_epochs": 2, "l1": 1e-3},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, whose sums are the same in every run; and no latencies, which these tests are not about."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    measured = MeasuredSpeedup(ratio=1.5, lowest=1.4, highest=1.6, dense_ms=3.0, compressed_ms=2.0, isa=None)
    monkeypatch.setattr(slim_road, "measure_speedup", lambda *_: measured)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    (folder / "tiny.py").write_text(NETWORK)
    settings = TrainSettings(epochs=4, batch_size=64, precision="32")
    return train_dense(f"{folder / 'tiny.py'}:tiny", "digits", output=folder / "dense.pt", settings=settings).path


def run(dense: Path, method: str, output: Path, *, resume: bool = False, **wishes: object) -> SlimNetwork:
    return slim(
        dense,
        method=method,
        data="digits",
        wishes=replace(Wishes(budget=parse_budget("macs=0.5x")), **wishes),
        output=output,
        epochs=2,
        resume=resume,
        settings=SETTINGS,
        method_settings=METHODS[method],
    )


@pytest.fixture(scope="module", params=METHODS)
def finished(request: pytest.FixtureRequest, dense: Path, tmp_path_factory: pytest.TempPathFactory) -> SlimNetwork:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        measured = MeasuredSpeedup(ratio=1.5, lowest=1.4, highest=1.6, dense_ms=3.0, compressed_ms=2.0, isa=None)
        patched.setattr(slim_road, "measure_speedup", lambda *_: measured)
        return run(dense, request.param, tmp_path_factory.mktemp(request.param) / "slim.pt")


def test_the_checkpoint_is_a_plain_slim_network(finished: SlimNetwork, dense: Path) -> None:
    saved = checkpoint.load(finished.path)
    assert saved.method is None
    model = checkpoint.rebuild(saved)
    assert not any(name.endswith(("gate", "mask")) for name in model.state_dict())
    dataset = load("digits")
    assert evaluate(model, dataset, "val").top1 == finished.val_top1 == saved.record["val_top1"]
    assert evaluate(model, dataset, "test").top1 == finished.test_top1
    assert finished.cost.macs == pytest.approx(0.5 * finished.before.macs, rel=0.02)
    assert finished.val_top1 > 0.5  # chance is 0.1
    assert saved.record["settings"] == {**saved.record["settings"], **METHODS[saved.record["method"]]}


def test_only_results_are_left(finished: SlimNetwork) -> None:
    method = checkpoint.load(finished.path).record["method"]
    log = ["slim.csv"] if method == "gate-decorator" else []
    assert sorted(path.name for path in finished.path.parent.iterdir()) == [*log, "slim.plan.json", "slim.pt"]


class StoppedError(Exception):
    pass


# Of 11 steps an epoch, a Tick of 2: in the first stage, in a later one where there is, in the fine-tuning's 2nd epoch.
@pytest.mark.parametrize("from_the_end", [False, True])
def test_a_killed_run_goes_on_to_the_same_bits(
    finished: SlimNetwork, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_the_end: bool
) -> None:
    method = checkpoint.load(finished.path).record["method"]
    step, done = torch.optim.SGD.step, 0

    def counted(*arguments: object, **named: object) -> object:
        nonlocal done
        done += 1
        if done > limit:
            raise StoppedError
        return step(*arguments, **named)

    # All steps of the run: the log's epochs, or the sparse epochs, and two of fine-tuning.
    limit = 15
    if from_the_end:
        log = finished.path.with_suffix(".csv")
        stages = [line.split(",")[0] for line in log.read_text().splitlines()[1:]] if log.exists() else ["tock"] * 2
        limit = 11 * stages.count("tock") + 2 * stages.count("tick") + 15
    output = tmp_path / "slim.pt"
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.SGD, "step", counted)
        with pytest.raises(StoppedError):
            run(dense, method, output)
    assert not output.exists()
    assert output.with_name("slim.pt.resume").exists() == from_the_end
    again = run(dense, method, output, resume=True)
    assert again.plan == finished.plan
    expected = checkpoint.load(finished.path).state
    assert all(torch.equal(value, expected[name]) for name, value in checkpoint.load(output).state.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in finished.path.parent.iterdir())


def test_fbs_goes_on_top(finished: SlimNetwork, tmp_path: Path) -> None:
    """What FBS's paper reports as combined: static channels go first, then each image chooses among those left."""
    both = prune(finished.path, data="digits", density=0.5, output=tmp_path / "both.pt", epochs=1, settings=SETTINGS)
    saved = checkpoint.load(both.path)
    assert (saved.method, saved.plan) == ("fbs", checkpoint.load(finished.path).plan)
    model = checkpoint.rebuild(saved)
    kept = finished.cost.layers
    widths = {name: layer.conv.weight.shape[0] for name, layer in layers(model).items()}
    assert widths == {layer.name: layer.out_channels for layer in kept if layer.kind == "conv"}
    assert both.dense_macs == pytest.approx(finished.cost.macs)
    assert both.cost.macs < 0.6 * finished.cost.macs
    assert evaluate(model, load("digits"), "val").top1 == both.val_top1


def test_a_plan_is_replayed_without_ticks(finished: SlimNetwork, dense: Path, tmp_path: Path) -> None:
    method, plan = checkpoint.load(finished.path).record["method"], finished.path.with_suffix(".plan.json")
    again = run(dense, method, tmp_path / "again.pt", budget=None, plan=plan)
    assert again.plan == finished.plan
    assert not (tmp_path / "again.csv").exists()


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_leaves_nothing_behind(method: str, dense: Path, tmp_path: Path) -> None:
    never = {"budget": parse_budget("macs=0.5x"), "limits": Limits(keep_min={"*": 0.9})}
    with pytest.raises(BudgetError, match="closest reachable"):
        run(dense, method, tmp_path / "slim.pt", **never)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run(dense, method, tmp_path / "other.pt", resume=True)
    assert not list(tmp_path.iterdir()), "it is said before any training"


def test_the_command_takes_recipes_and_changes_them(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "prune",
        dense,
        "--method",
        "gate-decorator",
        "--data",
        "digits",
        "--budget",
        "macs=0.6x",
        "--align",
        "off",
    )
    changes = (
        "--set",
        "prune_fraction=0.2",
        "--set",
        "tick_images=128",
        "--set",
        "tock_epochs=0",
        "--set",
        "momentum=0.5",
    )
    output = tmp_path / "slim.pt"
    shape = ("--recipe", "gate-decorator-cheap", "--epochs", 1, "--batch-size", 64, "--precision", "32", "-o", output)
    assert compress(*words, *shape, *changes) == 0
    record = checkpoint.load(output).record
    assert (record["settings"]["prune_fraction"], record["settings"]["momentum"]) == (0.2, 0.5)
    trained = record["train"]["settings"]
    assert (trained["epochs"], trained["batch_size"], trained["schedule"]) == (1, 64, "cosine")
    assert compress(*words, "--recipe", "slimming", "-o", tmp_path / "no.pt") == 1
    assert "is for method slimming" in capsys.readouterr().err
    assert compress(*words, "--set", "speed=1", "-o", tmp_path / "no.pt") == 1
    assert "gate-decorator has no setting speed" in capsys.readouterr().err
    assert not (tmp_path / "no.pt").exists()
