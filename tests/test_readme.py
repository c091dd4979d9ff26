"""The README keeps its word: the two commands come first, and every `compress` line in it can be typed."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from compressor.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / folder / "README.md" for folder in (".", "compressor", "exporters", "models", "runtime")]


def compress_lines() -> list[tuple[str, list[str]]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for place, word in enumerate(words):
                    if word == "compress" and (place == 0 or words[place - 1] == "&&"):
                        found.append((f"{page.name}: {line}", words[place + 1 :]))
    return found


@pytest.mark.parametrize(("line", "words"), compress_lines())
def test_every_compress_line_names_a_command_and_its_options(line: str, words: list[str]) -> None:
    group = get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    command = commands[words[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = [word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
    assert not [option for option in used if option not in known], line


def test_the_two_commands_come_first() -> None:
    spec = importlib.util.spec_from_file_location("readme_commands", ROOT / "tests" / "readme_commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run, test = module.commands()
    assert run.endswith("compress demo")
    assert test.endswith("bash tests/check.sh")
    assert ".venv" in run
    assert ".venv" in test
