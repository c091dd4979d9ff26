import json
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.costs.rates import BUILT_IN
from compressor.costs.staircase import Staircase, staircase_to_json
from compressor.errors import CompressorError
from compressor.pipeline import steps
from compressor.pipeline.steps import alignment, alignment_step, profile_machine, profile_path
from compressor.select import STEPS, machine_target

STAIRCASE = Staircase("a processor", 1, (8, 16), (1.0, 2.0), 8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(steps, "measure_staircase", lambda: STAIRCASE)
    return tmp_path


def test_nothing_measured_is_used_before_somebody_measures() -> None:
    assert replace(alignment("auto"), finer=False) == alignment(machine_target())
    assert alignment("auto").rates == BUILT_IN.get(machine_target())


def test_a_profile_is_found_again() -> None:
    profile, path = profile_machine()
    assert path == profile_path()
    assert alignment("auto").finer, "left to the machine"
    assert not alignment(str(path)).finer, "asked for"
    for text in ("auto", str(path)):
        assert alignment(text).step == 8
        assert alignment(text).rates == profile.rates
    assert profile.rates.block == 8


def test_a_profile_that_cannot_be_written_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "measure_staircase", lambda: pytest.fail("measured"))
    with pytest.raises(CompressorError, match="that is a folder; name a file with -o"):
        profile_machine(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CompressorError, match="cannot make"):
        profile_machine(tmp_path / "file" / "profile.json")


def test_profiles_without_rates_and_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(staircase_to_json(STAIRCASE))
    assert (alignment(str(path)).step, alignment(str(path)).rates) == (8, None)
    path.write_text(json.dumps({**json.loads(staircase_to_json(STAIRCASE)), "rates": {"conv_mac": 1}}))
    with pytest.raises(CompressorError, match="measure it anew"):
        alignment(str(path))


def test_steps_by_number_and_by_name() -> None:
    assert (alignment("24").step, alignment("24").rates) == (24, None)
    assert (alignment("off").step, alignment("off").rates) == (1, None)
    assert alignment_step("tensorrt-int8") == STEPS["tensorrt-int8"]
    with pytest.raises(CompressorError, match="--align nonsense: choose auto"):
        alignment("nonsense")
