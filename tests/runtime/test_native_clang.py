"""The library as a second compiler makes it: `any C++20 compiler` builds it."""

import re
import shutil

import native_build
import pytest

CASES = 20


def test_clang_builds_the_library_and_its_kernels_are_right(tmp_path):
    missing = [tool for tool in ("cmake", "clang++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found; Debian and Ubuntu have clang")
    options = ("-DCMAKE_CXX_COMPILER=clang++", "-DCOMPRESS_HOST=ON", "-DCOMPRESS_WERROR=ON")
    folder = native_build.build(tmp_path / "build", *options, targets=["compress_ops", "compress_host"])
    said = native_build.run(folder / "tests" / "runtime" / "native" / "compress_host", str(CASES), cwd=folder)
    assert re.fullmatch(rf"\d+ shapes and {CASES} random cases are right: .*generic\n", said)
