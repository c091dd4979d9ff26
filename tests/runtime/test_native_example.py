"""compress_time, the C++ program that loads a model: built, run, and asked what the library allocates meanwhile."""

import os
import platform
import re
import subprocess
from pathlib import Path

import native_build
import native_reference as reference
import numpy as np
import onnxruntime
import pytest
from native_reference import make_layer

import runtime

SIZE = (9, 8)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    if native_build.compiler() is None:
        pytest.skip("no cmake or no C++ compiler")
    targets = ["compress_time", "count_allocations"]
    options = ("-DCOMPRESS_EXAMPLE=ON", "-DCOMPRESS_HOST=ON")
    return native_build.build(tmp_path_factory.mktemp("example") / "build", *options, targets=targets)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    rng = np.random.default_rng(0)
    layers = [
        make_layer(rng, channels=3, outputs=24, winners=9),
        make_layer(rng, channels=24, outputs=20, winners=11, strides=(2, 2)),
        make_layer(rng, channels=20, outputs=12, winners=5, kernel=(1, 1)),
    ]
    path = tmp_path_factory.mktemp("model") / "chain.onnx"
    path.write_bytes(reference.chain_model(layers, SIZE))
    return path


def onnxruntime_library():
    """The library inside the pip package."""
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        pytest.skip("this onnxruntime package has no library of its own to load from C++")
    return found[0]


def command(example, path, *arguments):
    return [example / "compress_time", path, onnxruntime_library(), *map(str, arguments)]


@pytest.mark.parametrize("isa", reference.isa_names())
def test_the_program_computes_what_python_does(example, model_path, isa):
    said = native_build.run(*command(example, model_path, runtime.library_path(), 2, 3, isa), cwd=example)
    assert re.match(rf"{re.escape(str(model_path))}: median \d+\.\d+ ms, lowest \d+\.\d+ ms of 3 runs\n", said)
    count = np.arange(SIZE[0] * SIZE[1] * 3)
    image = ((count * 7919 % 1000).astype(np.float32) / np.float32(500) - 1).reshape(1, *SIZE, 3)
    session = runtime.Session(model_path, threads=2, isa=isa)
    values = np.array(said.splitlines()[1].removeprefix("first output: ").split(), np.float32)
    np.testing.assert_array_equal(values, session.run([image])[0].ravel()[: len(values)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-"], "compress:FBSConv|FBSConv"),  # a model without function bodies needs the library
        ([str(runtime.library_path()), 1, 1, "sse9"], "unknown instruction set 'sse9'; choose from: "),
    ],
)
def test_the_program_says_what_is_wrong(example, model_path, arguments, message):
    done = subprocess.run(command(example, model_path, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(message, done.stderr)


def test_the_library_allocates_nothing_per_run(example, model_path):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("allocations are counted with glibc only")
    counter = example / "tests" / "runtime" / "native" / "libcount_allocations.so"
    counts = []
    for runs in (1, 20):
        said = native_build.run(
            *command(example, model_path, runtime.library_path(), 2, runs),
            cwd=example,
            environment=os.environ | {"LD_PRELOAD": str(counter)},
        )
        counts.append(int(re.search(r"^allocations: (\d+)$", said, re.MULTILINE)[1]))
    assert counts[0] > 0  # what loading takes: the counter sees the library
    assert counts[1] == counts[0]
