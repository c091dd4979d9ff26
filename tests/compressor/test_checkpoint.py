import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import models
from compressor import methods
from compressor.checkpoint import CompressedCheckpoint, adopt, load, rebuild, save
from compressor.data import Preprocessing
from compressor.errors import CheckpointError, PlanError
from compressor.graph import trace
from compressor.plan import PruningPlan, plan_to_json
from compressor.shrink import shrink

PREPROCESSING = Preprocessing((0.3,), (0.4,), (1, 8, 8))


def checkpoint(**changes: object) -> CompressedCheckpoint:
    torch.manual_seed(0)
    values: dict[str, object] = {
        "architecture": "digitsnet",
        "architecture_kwargs": {"num_classes": 10},
        "preprocessing": PREPROCESSING,
        "classes": tuple("0123456789"),
        "state": models.build("digitsnet").state_dict(),
        "record": {"val_top1": 0.98, "seed": 0, "epochs": [1, 2], "command": "compress train"},
    }
    return CompressedCheckpoint(**{**values, **changes})  # type: ignore[arg-type]


def test_save_and_load_give_the_same(tmp_path: Path) -> None:
    before = checkpoint()
    save(before, tmp_path / "model.pt")
    after = load(tmp_path / "model.pt")
    for entry in dataclasses.fields(CompressedCheckpoint):
        if entry.name not in ("state", "path"):
            assert getattr(after, entry.name) == getattr(before, entry.name)
    assert list(after.state) == list(before.state)
    assert all(torch.equal(after.state[name], before.state[name]) for name in before.state)


def test_the_rebuilt_network_computes_the_same(tmp_path: Path) -> None:
    model = models.build("digitsnet").eval()
    save(checkpoint(state=model.state_dict()), tmp_path / "model.pt")
    rebuilt = rebuild(load(tmp_path / "model.pt"))
    x = torch.randn(3, 1, 8, 8)
    assert not rebuilt.training
    assert torch.equal(rebuilt(x), model(x))


def test_a_networks_file_is_found_beside_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(
        "from models import build\ndef net(**kwargs): return build('digitsnet', **kwargs)\n"
    )
    folder = tmp_path / "runs"
    folder.mkdir()
    save(checkpoint(architecture="../net.py:net"), folder / "model.pt")
    monkeypatch.chdir(folder)
    assert load(Path("model.pt")).architecture == "../net.py:net"
    monkeypatch.chdir(Path("/"))
    found = load(folder / "model.pt")
    assert Path(found.architecture.removesuffix(":net")).samefile(tmp_path / "net.py")
    assert rebuild(found)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_networks_file_that_is_gone_is_looked_for_where_the_message_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    save(checkpoint(architecture="nets/own.py:net"), folder / "model.pt")
    monkeypatch.chdir(tmp_path)
    loaded = load(Path("runs/model.pt"))
    with pytest.raises(CheckpointError, match=r"runs/model\.pt was made of the network 'nets/own\.py:net'") as caught:
        rebuild(loaded)
    for place in (tmp_path, folder):
        assert str(place / "nets/own.py") in str(caught.value)
        (place / "nets").mkdir()
        (place / "nets/own.py").write_text("from models import build\ndef net(**kw): return build('digitsnet', **kw)\n")
        rebuild(load(Path("runs/model.pt")))
        (place / "nets/own.py").unlink()


def test_a_method_is_attached_again_at_its_density(tmp_path: Path) -> None:
    method = methods.get("fbs")(density=0.5)
    model = method.attach(models.build("digitsnet").eval(), torch.zeros(2, 1, 8, 8)).eval()
    saved = checkpoint(state=model.state_dict(), method="fbs", method_settings=method.settings(), density=0.5)
    save(saved, tmp_path / "fbs.pt")
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(rebuild(load(tmp_path / "fbs.pt"))(x), model(x))
    denser = rebuild(dataclasses.replace(load(tmp_path / "fbs.pt"), density=1.0))
    assert not torch.equal(denser(x), model(x))


def test_the_file_opens_without_running_code(tmp_path: Path) -> None:
    save(checkpoint(), tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt", weights_only=True)["format"] == "compressor"


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save(checkpoint(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(checkpoint(record={"model": nn.Identity()}), path)
    state = {**checkpoint().state, "classifier.bias": torch.full((10,), float("nan"))}
    with pytest.raises(CheckpointError, match=r"not finite: classifier\.bias"):
        save(checkpoint(state=state), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a.weight": torch.zeros(2)}, "a bare state dict; .*compress train"),
        ({"epoch": 3, "model": {}}, "a dictionary with epoch, model"),
        ([1, 2], "a list"),
        ({"format": "compressor", "version": 99}, "format version 99; this release reads version 1"),
        ({"format": "compressor", "version": 1, "state": {}}, "lacks architecture, architecture_kwargs"),
    ],
)
def test_other_content_is_refused_with_what_it_is(tmp_path: Path, content: object, expected: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(CheckpointError, match="no file"):
        load(path)
    save(checkpoint(), path)
    content = path.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"not a complete checkpoint|is damaged"):
            load(path)


def test_changed_bytes_are_not_taken_for_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save(checkpoint(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: the checksum of"):
        load(path)


@pytest.mark.parametrize(
    ("name", "value"), [("state", None), ("record", 3), ("preprocessing", {"mean": [1]}), ("classes", None)]
)
def test_entries_of_another_kind_are_refused(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "model.pt"
    save(checkpoint(), path)
    torch.save({**torch.load(path, weights_only=True), name: value}, path)
    with pytest.raises(CheckpointError, match=f"is damaged: .*{name}"):
        load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save(checkpoint(), path)
    values = torch.load(path, weights_only=True)
    values["state"]["classifier.bias"][3] = float("inf")
    torch.save(values, path)
    with pytest.raises(CheckpointError, match=r"not finite: classifier\.bias"):
        load(path)


def test_all_misfits_are_listed() -> None:
    state = dict(checkpoint().state)
    del state["features.0.conv.weight"], state["classifier.bias"]
    state["extra"] = torch.zeros(1)
    state["classifier.weight"] = torch.zeros(3, 64)
    expected = (
        r"do not fit digitsnet: missing classifier\.bias, features\.0\.conv\.weight; unexpected extra; "
        r"classifier\.weight is \(3, 64\), expected \(10, 128\)"
    )
    with pytest.raises(CheckpointError, match=expected):
        rebuild(checkpoint(state=state))


def test_of_many_misfits_the_first_are_named_and_the_others_counted() -> None:
    state = dict(checkpoint().state)
    foreign = {f"other.{name}": value for name, value in state.items()}
    misshapen = {name: torch.zeros(7, 7, 7, 7, 7) for name in state}
    for wrong, counted in ((foreign, 2), (misshapen, 1)):
        with pytest.raises(CheckpointError) as caught:
            rebuild(checkpoint(state=wrong))
        assert str(caught.value).count(f"and {len(state) - 3} more") == counted
        assert sum(name in str(caught.value) for name in state) == 3


def test_a_plan_is_replayed() -> None:
    dense = models.build("digitsnet").eval()
    graph = trace(dense, torch.zeros(2, 1, 8, 8))
    plan = PruningPlan({graph.groups[0].name: (0, 5, 9)}, {graph.groups[0].name: graph.groups[0].size})
    slim = shrink(dense, graph, plan)
    saved = checkpoint(state=slim.state_dict(), plan={"steps": [json.loads(plan_to_json(plan))]})
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(rebuild(saved)(images), slim(images))


def test_a_plan_for_another_network_is_refused() -> None:
    with pytest.raises(PlanError, match="no group"):
        rebuild(checkpoint(plan={"steps": [{"format": 1, "groups": {"nolayer": {"size": 4, "keep": [1]}}}]}))


class Evil:
    """Running this on load would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    torch.save(models.build("digitsnet"), tmp_path / "module.pt")
    for name in ("evil.pt", "module.pt"):
        with pytest.raises(CheckpointError, match=r"would run code when opened.*compress train"):
            load(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="another format"):
        load(tmp_path / "plain.pkl")


@pytest.mark.parametrize("pickled", [False, True])
def test_weights_from_elsewhere_become_a_checkpoint(tmp_path: Path, pickled: bool) -> None:
    model, path = models.build("digitsnet").eval(), tmp_path / "weights.pt"
    torch.save(model if pickled else model.state_dict(), path)
    adopted = adopt(
        path,
        architecture="digitsnet",
        architecture_kwargs={},
        preprocessing=PREPROCESSING,
        unsafe_pickle=pickled,
    )
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(rebuild(adopted)(x), model(x))
    with pytest.raises(CheckpointError, match="do not fit resnet20: missing"):
        adopt(
            path,
            architecture="resnet20",
            architecture_kwargs={},
            preprocessing=PREPROCESSING,
            unsafe_pickle=pickled,
        )
