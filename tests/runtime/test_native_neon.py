"""The library built for 64-bit ARM on this machine, and its kernels run there through an emulator."""

import re
import shutil
from pathlib import Path

import native_build
import pytest

TOOLCHAIN = native_build.ROOT / "runtime" / "csrc" / "toolchains" / "aarch64-linux-gnu.cmake"
SYSROOT = "/usr/aarch64-linux-gnu"  # as the toolchain file has it
CASES = 20


@pytest.fixture(scope="module")
def arm_build(tmp_path_factory):
    missing = [tool for tool in ("cmake", "aarch64-linux-gnu-g++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found; Debian and Ubuntu have g++-aarch64-linux-gnu")
    options = (f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}", "-DCOMPRESS_HOST=ON", "-DCOMPRESS_EXAMPLE=ON")
    hosts = ["compress_host", "compress_sparse_host", "compress_int8_host", "compress_depthwise_host"]
    targets = ["compress_ops", *hosts, "compress_time"]
    return native_build.build(tmp_path_factory.mktemp("arm") / "build", *options, targets=targets)


@pytest.fixture
def emulator():
    found = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if found is None:
        pytest.skip("no qemu-aarch64 to run ARM programs with; Debian and Ubuntu have it in qemu-user")
    return [found, "-L", SYSROOT]


def test_what_a_device_needs_is_built_for_it(arm_build):
    aarch64 = 183  # e_machine, two bytes at offset 18 of an ELF file
    for name in ("libcompress_ops.so", "compress_time"):
        assert int.from_bytes(Path(arm_build / name).read_bytes()[18:20], "little") == aarch64


def test_neon_equals_generic(arm_build, emulator):
    host = arm_build / "tests" / "runtime" / "native" / "compress_host"
    said = native_build.run(*emulator, host, str(CASES), cwd=arm_build)
    assert re.fullmatch(rf"\d+ shapes and {CASES} random cases are right: neon generic\n", said)
    for kind in ("sparse", "int8", "depthwise"):
        host = host.with_name(f"compress_{kind}_host")
        assert native_build.run(*emulator, host, str(CASES), cwd=arm_build) == f"{CASES} {kind} cases are right\n"
