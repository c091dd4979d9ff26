"""The kernels under sanitizers, and what their object files may define."""

import os
import re
import shutil

import native_build
import native_reference as reference
import pytest

CASES = 40
DEBUG = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=", "-DCOMPRESS_HOST=ON")
HOST = ("tests", "runtime", "native", "compress_host")
SPARSE_HOST = (*HOST[:-1], "compress_sparse_host")
INT8_HOST = (*HOST[:-1], "compress_int8_host")
DEPTHWISE_HOST = (*HOST[:-1], "compress_depthwise_host")


def sanitized(tmp_path_factory, sanitizer):
    folder = tmp_path_factory.mktemp(sanitizer.replace(",", "_"))
    if not native_build.have_sanitizer(folder, sanitizer):
        pytest.skip(f"no cmake, or no C++20 compiler with -fsanitize={sanitizer}")
    targets = [HOST[-1], SPARSE_HOST[-1], INT8_HOST[-1], DEPTHWISE_HOST[-1]]
    return native_build.build(folder / "build", *DEBUG, f"-DCOMPRESS_SANITIZE={sanitizer}", targets=targets)


@pytest.fixture(scope="module")
def memory_build(tmp_path_factory):
    return sanitized(tmp_path_factory, "address,undefined")


@pytest.fixture(scope="module")
def thread_build(tmp_path_factory):
    return sanitized(tmp_path_factory, "thread")


def test_random_layers_are_right_and_touch_nothing_else(memory_build):
    environment = os.environ | {
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "ASAN_OPTIONS": "detect_stack_use_after_return=1",
    }
    said = native_build.run(memory_build.joinpath(*HOST), str(CASES), cwd=memory_build, environment=environment)
    names = " ".join(reference.isa_names())
    assert re.fullmatch(rf"\d+ shapes and {CASES} random cases are right: {names}\n", said)


# Cases under the memory sanitizers, each on every instruction set, sparse ones with variations.
@pytest.mark.parametrize("sanitizer", ["memory", "thread"])
@pytest.mark.parametrize(
    ("host", "kind", "cases"),
    [(SPARSE_HOST, "sparse", 15), (INT8_HOST, "int8", 40), (DEPTHWISE_HOST, "depthwise", 40)],
    ids=["sparse", "int8", "depthwise"],
)
def test_layers_are_right_and_touch_nothing_else(request, sanitizer, host, kind, cases):
    build = request.getfixturevalue(f"{sanitizer}_build")
    count = cases if sanitizer == "memory" else 5
    said = native_build.run(build.joinpath(*host), str(count), cwd=build)
    assert said == f"{count} {kind} cases are right\n"


def test_eight_threads_in_one_layer_do_not_race(thread_build):
    said = native_build.run(thread_build.joinpath(*HOST), "threads", cwd=thread_build)
    assert said == f"threads are right: {' '.join(reference.isa_names())}\n"


def test_an_instruction_set_defines_one_global_symbol(memory_build):
    # Anything else compiled with its flags could be the copy the linker keeps for code that runs on every machine.
    if shutil.which("nm") is None:
        pytest.skip("no nm to read object files with")
    objects = sorted(memory_build.glob("CMakeFiles/kernels_*.dir/**/*.o"))
    assert objects
    for path in objects:
        isa = path.relative_to(memory_build / "CMakeFiles").parts[0].removeprefix("kernels_").removesuffix(".dir")
        listing = native_build.run("nm", "--defined-only", "--extern-only", "--demangle", path, cwd=memory_build)
        symbols = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
        # The sanitizers add one of their own for each global variable.
        assert [name for name in symbols if not name.startswith("__odr_asan")] == [f"compress::kernels_{isa}"], path
