"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and what their object files may define."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = 60


def run(*command, cwd, environment=None):
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout


def have_sanitizers(folder):
    source = folder / "probe.cc"
    source.write_text("int main() { return 0; }\n")
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None or shutil.which("cmake") is None:
        return False
    flags = ["-std=c++20", "-fsanitize=address,undefined", str(source), "-o", str(folder / "probe")]
    built = subprocess.run([compiler, *flags], capture_output=True, check=False)
    return built.returncode == 0 and subprocess.run([folder / "probe"], check=False).returncode == 0


@pytest.fixture(scope="module")
def sanitized_build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanitized")
    if not have_sanitizers(folder):
        pytest.skip("no C++20 compiler with AddressSanitizer and UndefinedBehaviorSanitizer, or no cmake")
    build = folder / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=", "-DCOMPRESS_SANITIZE=ON", "-DCOMPRESS_HOST=ON"]
    run("cmake", *generator, "-S", ROOT, "-B", build, *options, cwd=folder)
    run("cmake", "--build", build, "--target", "compress_host", "--parallel", "2", cwd=folder)
    return build


def test_random_layers_are_right_and_touch_nothing_else(sanitized_build):
    host = sanitized_build / "tests" / "runtime" / "native" / "compress_host"
    environment = os.environ | {
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "ASAN_OPTIONS": "detect_stack_use_after_return=1",
    }
    assert run(host, str(CASES), cwd=sanitized_build, environment=environment) == f"{CASES} cases are right\n"


def test_an_instruction_set_defines_one_global_symbol(sanitized_build):
    # Anything else compiled with its flags could be the copy the linker keeps for code that runs on every machine.
    if shutil.which("nm") is None:
        pytest.skip("no nm to read object files with")
    objects = sorted(sanitized_build.glob("CMakeFiles/kernels_*.dir/**/*.o"))
    assert objects
    for path in objects:
        isa = path.relative_to(sanitized_build / "CMakeFiles").parts[0].removeprefix("kernels_").removesuffix(".dir")
        listing = run("nm", "--defined-only", "--extern-only", "--demangle", path, cwd=sanitized_build)
        symbols = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
        # The sanitizers add one of their own for each global variable.
        assert [name for name in symbols if not name.startswith("__odr_asan")] == [f"compress::kernels_{isa}"], path
