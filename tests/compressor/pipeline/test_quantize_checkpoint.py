from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import models
from compressor import checkpoint
from compressor.checkpoint import CompressedCheckpoint
from compressor.data import Preprocessing
from compressor.errors import CheckpointError
from compressor.quantise import Scheme, apply, describe, kernel_names, quantise_all


def network() -> CompressedCheckpoint:
    torch.manual_seed(0)
    model = models.build("digitsnet")
    preprocessing = Preprocessing((0.5,), (0.25,), (1, 8, 8))
    return CompressedCheckpoint("digitsnet", {}, preprocessing, (), model.state_dict())


def in_fixed_point(bits: int = 4) -> CompressedCheckpoint:
    saved = network()
    model = checkpoint.rebuild(saved)
    names = dict.fromkeys(kernel_names(model), bits)
    fixed = quantise_all(dict(model.named_parameters()), names, Scheme(per_channel=True))
    apply(model, fixed)
    return replace(saved, state=model.state_dict(), fixed_point=describe(fixed))


def test_loads_bit_for_bit_and_is_stored_as_levels(tmp_path: Path) -> None:
    before = in_fixed_point()
    checkpoint.save(before, tmp_path / "q.pt")
    checkpoint.save(network(), tmp_path / "float.pt")
    after = checkpoint.load(tmp_path / "q.pt")
    assert after.fixed_point == before.fixed_point
    assert list(after.state) == list(before.state)
    assert all(torch.equal(after.state[name], before.state[name]) for name in before.state)
    stored = torch.load(tmp_path / "q.pt", weights_only=True)
    assert stored["version"] == 2
    assert {name for name, value in stored["state"].items() if value.dtype == torch.int8} == set(
        before.fixed_point or {}
    )
    assert (tmp_path / "q.pt").stat().st_size < 0.3 * (tmp_path / "float.pt").stat().st_size


def test_float_networks_are_written_as_before_and_older_files_load(tmp_path: Path) -> None:
    checkpoint.save(network(), tmp_path / "new.pt")
    values = torch.load(tmp_path / "new.pt", weights_only=True)
    assert values["version"] == 1
    assert values.pop("fixed_point") is None
    torch.save(values, tmp_path / "old.pt")
    old = checkpoint.load(tmp_path / "old.pt")
    assert old.fixed_point is None
    assert all(torch.equal(old.state[name], value) for name, value in network().state.items())
    assert {entry.name for entry in fields(CompressedCheckpoint)} >= {"fixed_point"}


def test_weights_that_were_changed_since_are_not_written(tmp_path: Path) -> None:
    saved = in_fixed_point()
    state = {**saved.state, "classifier.weight": saved.state["classifier.weight"] + 0.01}
    with pytest.raises(CheckpointError, match=r"not in fixed point as described: classifier\.weight is not what its"):
        checkpoint.save(replace(saved, state=state), tmp_path / "q.pt")
    assert not list(tmp_path.iterdir())


def test_damaged_descriptions_are_one_line(tmp_path: Path) -> None:
    checkpoint.save(in_fixed_point(), tmp_path / "q.pt")
    values = torch.load(tmp_path / "q.pt", weights_only=True)
    values["fixed_point"]["classifier.weight"]["bits"] = 77
    torch.save(values, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match=r"q\.pt is damaged: the description of classifier\.weight lacks usable"):
        checkpoint.load(tmp_path / "q.pt")
