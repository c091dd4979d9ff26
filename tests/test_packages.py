"""What holds for every package: public names exist, and importing has no effect beyond what it must."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

PACKAGES = ("compressor", "exporters", "runtime", "models")
# Importing a program runs it; its names are not public. The native library is no Python module.
PROGRAMS = {"runtime.bench.worker", "runtime.bench.__main__"}
TRAINING_ONLY = ("torch", "torchvision", "lightning_fabric", "sklearn", "onnxscript", "onnx_graphsurgeon")


def modules() -> list[str]:
    names = []
    for package in PACKAGES:
        root = importlib.import_module(package)
        names += [package, *(found.name for found in pkgutil.walk_packages(root.__path__, f"{package}."))]
    return [name for name in names if name not in PROGRAMS and not name.startswith("runtime.lib")]


@pytest.mark.parametrize("name", modules())
def test_every_public_name_exists_and_is_listed_once(name: str) -> None:
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert len(set(listed)) == len(listed)
    missing = [public for public in listed if not hasattr(module, public)]
    assert not missing, f"{name}.__all__ names {missing}, which the module does not have"


@pytest.mark.parametrize(
    "statement",
    [
        "import runtime",
        "import runtime.bench",
        "import compressor",
        "import compressor.cli.app",
        "from compressor.cli.app import main; main(['list', 'isas'])",
        "from compressor.cli.app import main; main(['bench', '--help'])",
    ],
)
def test_the_device_side_needs_no_training_package(statement: str) -> None:
    # A None in sys.modules makes the import of that name fail as if it were not installed.
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in TRAINING_ONLY)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}; {statement}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_training_package_is_said_in_one_line() -> None:
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in TRAINING_ONLY)
    program = f"import sys; {blocked}; from compressor.cli.app import main; main(['list', 'models'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'compressor[train]'" in done.stderr
