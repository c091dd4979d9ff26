"""`compress prune --method rbp` from a checkpoint to a checkpoint: files, replay, resuming, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compressor import checkpoint, recipes
from compressor.data import Dataset, load
from compressor.errors import CompressorError, MethodError
from compressor.methods.rbp import RBP
from compressor.pipeline.slim import SlimNetwork, Wishes, slim
from compressor.pipeline.teacher import Distillation
from compressor.plan import plan_from_json
from compressor.select import Limits, parse_budget
from compressor.train import Progress, TrainSettings, evaluate, train

FAST = TrainSettings(batch_size=64, peak_lr=0.02, precision="32", clip_norm=5.0)
SETTINGS = {"layer_epochs": 2, "share_epochs": 1, "bn_batches": 5}


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    convolutions += [nn.Conv2d(16, 24, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(96, 10))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def dense(data: Dataset) -> checkpoint.CompressedCheckpoint:
    torch.set_num_threads(1)
    model = network()
    train(model, data, settings=replace(FAST, epochs=3, peak_lr=0.1))
    return checkpoint.CompressedCheckpoint("", {}, data.preprocessing, data.classes, model.state_dict(), base=network())


def run(dense: checkpoint.CompressedCheckpoint, data: Dataset, output: Path, **changes: Any) -> SlimNetwork:
    options: dict[str, Any] = {
        "wishes": Wishes(parse_budget("macs=0.5x")),
        "epochs": 2,
        "settings": FAST,
        "method_settings": SETTINGS,
        "distillation": Distillation(checkpoint.rebuild(dense)),
        **changes,
    }
    return slim(dense, method="rbp", data=data, output=output, **options)


@pytest.fixture(scope="module")
def pruned(
    dense: checkpoint.CompressedCheckpoint, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> SlimNetwork:
    return run(dense, data, tmp_path_factory.mktemp("pruned") / "slim.pt")


def test_budget_accuracy_and_files(pruned: SlimNetwork) -> None:
    assert pruned.cost.macs == pytest.approx(0.5 * pruned.before.macs, rel=0.02)
    assert pruned.val_before - pruned.val_top1 < 0.05
    names = {path.name for path in pruned.path.parent.iterdir()}
    assert names - {"slim.rbp.png"} == {"slim.pt", "slim.plan.json", "slim.rbp.json"}
    report = json.loads(pruned.path.with_suffix(".rbp.json").read_text())
    assert report["method"] == "RBP (reconstruction)"
    for layer in report["layers"]:
        assert sum(layer["histogram"]) == layer["units"] > layer["kept"]
    picture = pruned.path.with_suffix(".rbp.png")
    assert not picture.exists() or picture.read_bytes().startswith(b"\x89PNG")


def test_the_checkpoint_replays_its_plan(
    dense: checkpoint.CompressedCheckpoint, data: Dataset, pruned: SlimNetwork
) -> None:
    saved = replace(checkpoint.load(pruned.path), base=dense.base)
    assert saved.method is None, "a plain network"
    assert saved.record["method"] == "rbp"
    assert saved.plan is not None
    assert plan_from_json(json.dumps(saved.plan["steps"][0])) == pruned.plan
    model = checkpoint.rebuild(saved)
    assert evaluate(model, data, "val").top1 == saved.record["val_top1"]
    assert evaluate(model, data, "test").top1 == saved.record["test_top1"]
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in network().named_parameters()]


class KilledError(Exception):
    pass


class KillAt(Progress):
    """Stops the run with a line that has a text in it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def line(self, text: str) -> None:
        if self.text in text:
            raise KilledError


@pytest.mark.parametrize("text", ["layer 2/2, epoch 1/2", "epoch 1/2  train loss"])
def test_a_killed_run_goes_on_to_the_same_result(
    dense: checkpoint.CompressedCheckpoint, data: Dataset, pruned: SlimNetwork, tmp_path: Path, text: str
) -> None:
    class Fine(KillAt):
        """The fine-tuning's epochs, not a layer's."""

        def line(self, said: str) -> None:
            if self.text.startswith("layer") or said.startswith("epoch"):
                super().line(said)

    output = tmp_path / "slim.pt"
    with pytest.raises(KilledError):
        run(dense, data, output, progress=Fine(text))
    assert not output.exists()
    run(dense, data, output, resume=True)
    before, now = (checkpoint.load(path).state for path in (pruned.path, output))
    assert all(torch.equal(value, now[name]) for name, value in before.items())
    assert not list(tmp_path.glob("*.resume"))


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"wishes": Wishes(None)}, CompressorError, "add --budget"),
        (
            {"wishes": Wishes(parse_budget("macs=0.5x"), Limits(remove_branches=True))},
            CompressorError,
            "in every layer",
        ),
        ({"wishes": Wishes(parse_budget("macs=0.5x"), fold_constants=True)}, CompressorError, "leave --fold-constants"),
        ({"wishes": Wishes(parse_budget("macs=0.01x"))}, CompressorError, "closest reachable"),
        ({"method_settings": {"prior": "laplace"}}, MethodError, r"RBP \(reconstruction\): .*choose from: dirac"),
        ({"method_settings": {"prior_variance": 0.5}}, MethodError, "take a smaller prior_variance"),
    ],
    ids=str,
)
def test_unusable_wishes_are_refused_before_any_work(
    dense: checkpoint.CompressedCheckpoint,
    data: Dataset,
    tmp_path: Path,
    changes: dict[str, Any],
    kind: type[Exception],
    text: str,
) -> None:
    with pytest.raises(kind, match=text):
        run(dense, data, tmp_path / "slim.pt", **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.startswith("rbp")])
def test_recipes_are_usable(name: str) -> None:
    recipe = recipes.get(name)
    assert recipe.method == "rbp"
    RBP(**recipe.settings).check()
    assert recipe.train_settings().epochs >= 20
