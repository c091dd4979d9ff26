import sys
from pathlib import Path

import pytest

import runtime

# native_reference.py serves several files here; importlib mode adds no folder to the path itself.
sys.path.insert(0, str(Path(__file__).parent / "native"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if runtime.library_path() is None:
        skip = pytest.mark.skip(reason="the native library is not built: `pip install -e .` builds it")
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.name.startswith("test_native"):
                item.add_marker(skip)
