"""A foreign package with a sibling's name is named, before anything of it runs."""

import importlib.machinery
import sys
from pathlib import Path

import pytest

from compressor.errors import CompressorError
from compressor.siblings import SIBLINGS, check_siblings


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: nothing of the siblings is imported, and nothing but `sys.path` says where they are."""
    for name in SIBLINGS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])


def test_our_own_siblings_pass() -> None:
    check_siblings(*SIBLINGS)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("file", ["models/__init__.py", "models.py"])
def test_what_hides_a_sibling_is_named_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    foreign = tmp_path / file
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise SystemExit('ran')\n")
    home = str(Path(__file__).parents[2])
    monkeypatch.setattr(sys, "path", [str(tmp_path), home])
    with pytest.raises(CompressorError, match=r"hides the package 'models'.*rename it") as caught:
        check_siblings("models")
    assert str(tmp_path) in str(caught.value)
    monkeypatch.setattr(sys, "path", [home, str(tmp_path)])
    check_siblings("models")
