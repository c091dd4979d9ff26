"""Weights that stay in their file: the same results, held once, and every file that is not written so still runs."""

import os
from pathlib import Path

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest
from native_reference import make_input, make_layer
from onnx import TensorProto, helper, numpy_helper
from sparse_reference import make_sparse, sparse_model

import runtime
from exporters.store import save_model
from runtime.model_file import LEAST_BYTES, read_model
from runtime.wire import bytes_field, fields, varint_field

needs_library = pytest.mark.skipif(runtime.library_path() is None, reason="the native library is not built")
needs_pages = pytest.mark.skipif(not os.access("/proc/self/pagemap", os.R_OK), reason="no /proc/self/pagemap")
CHANNELS, OUTPUTS = 64, 128
LAYERS = {
    "FBSConv": lambda rng: reference.fbs_model(make_layer(rng, channels=CHANNELS, outputs=OUTPUTS, winners=40)),
    "FBSConvInt8": lambda rng: reference.int8_model(
        *reference.make_int8_layer(rng, channels=CHANNELS, outputs=OUTPUTS, winners=40)
    ),
    "DepthwiseConv": lambda rng: reference.depthwise_model(
        rng.normal(size=(16 * OUTPUTS, 1, 3, 3)).astype(np.float32), np.zeros(16 * OUTPUTS, np.float32)
    ),
    "SparseConv": lambda rng: sparse_model(make_sparse(rng, channels=CHANNELS, outputs=OUTPUTS)),
    # Rows of 100 are no whole vectors, so they are copied.
    "Linear": lambda rng: reference.linear_model(
        rng.normal(size=(16 * CHANNELS, 100)).astype(np.float32), np.zeros(100, np.float32), CHANNELS
    ),
}


def save_unaligned(model, path):
    """As any other writer: the weights lie where they happen to."""
    for spaces in range(64):
        helper.set_model_props(model, {"spaces": " " * spaces})
        onnx.save(model, path)
        if not read_model(path).is_mappable:
            return
    raise AssertionError("every file was aligned")


@pytest.fixture
def dense():
    """A product with a weight that is large enough to stay in the file."""
    weight = np.random.default_rng(0).normal(size=(64, LEAST_BYTES // 256)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])],
        "dense",
        [value("x", TensorProto.FLOAT, ["N", 64])],
        [value("y", TensorProto.FLOAT, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(weight[0], "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)


@pytest.fixture
def fbs(tmp_path):
    layer = make_layer(np.random.default_rng(0), channels=CHANNELS, outputs=OUTPUTS, winners=40)
    path = tmp_path / "fbs.onnx"
    save_model(onnx.load_from_string(reference.fbs_model(layer)), path)
    return path


def resident_bytes(path):
    """Of all mappings of a file, what is in this process's memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if " " in line.partition(":")[0]:  # the line that begins a mapping
            ours = line.endswith(str(path.resolve()))
        elif ours and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.mark.parametrize("save", [save_model, save_unaligned])
def test_a_session_computes_what_onnx_runtime_computes_from_the_file(dense, images, tmp_path, save):
    path = tmp_path / "dense.onnx"
    save(dense, path)
    assert read_model(path).is_mappable == (save is save_model)
    (expected,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": images})
    np.testing.assert_array_equal(runtime.Session(path, threads=1).run([images])[0], expected)


@pytest.mark.parametrize("name", ["größe.onnx", "a..b .onnx", "link.onnx", "folder/m.onnx"])
def test_the_weights_are_found_under_any_name(dense, images, tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    save_model(dense, path)
    if name == "link.onnx":
        path = path.rename(tmp_path / "target.onnx")
        (tmp_path / "links").mkdir()
        path = tmp_path / "links" / name
        path.symlink_to("../target.onnx")
    monkeypatch.chdir(path.parent)
    (y,) = runtime.Session(path.name).run([images])
    assert y.shape == (3, LEAST_BYTES // 256)


def test_large_weights_are_not_read_and_all_else_is(dense, tmp_path):
    path = tmp_path / "dense.onnx"
    save_model(dense, path)
    model = onnx.load_from_string(read_model(path).content)
    large, small = model.graph.initializer
    where = {entry.key: entry.value for entry in large.external_data}
    begin = int(where["offset"])
    assert path.read_bytes()[begin : begin + int(where["length"])] == dense.graph.initializer[0].raw_data
    assert (where["location"], large.raw_data) == ("dense.onnx", b"")
    assert small == dense.graph.initializer[1]
    del model.graph.initializer[:], dense.graph.initializer[:]
    assert model == dense


def test_a_damaged_file_is_no_model_and_nothing_worse(dense, tmp_path):
    path = tmp_path / "dense.onnx"
    save_model(dense, path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for size in {0, 1, *generator.integers(0, len(whole), 100)}:
        path.write_bytes(whole[:size])
        model = read_model(path)
        assert model is None or len(model.content) < len(whole)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.integers(0, 400)] = generator.integers(0, 256)
        path.write_bytes(damaged)
        read_model(path)


@pytest.mark.parametrize("content", [b"\x08", b"\x0a\x05ab", b"\x0b\x00", b"\x08" + b"\xff" * 11, b"\x09\x00"])
def test_what_is_no_message_is_refused(content):
    with pytest.raises(ValueError, match=r"offset|kind"):
        list(fields(content, 0, len(content)))


def test_numbers_of_any_length_are_read():
    for value in (0, 127, 128, 2**32, 2**64 - 1):
        content = varint_field(3, value) + bytes_field(4, b"x" * (value % 300))
        first, second = fields(content, 0, len(content))
        assert (first.number, second.number, second.end) == (3, 4, len(content))
        assert second.end - second.begin == value % 300


@needs_library
@needs_pages
@pytest.mark.parametrize("op", LAYERS)
def test_weights_are_held_once(tmp_path, op):
    """The library's copy is the only one in memory; what is left of the file are the ends of its tensors."""
    path = tmp_path / "layer.onnx"
    save_model(onnx.load_from_string(LAYERS[op](np.random.default_rng(0))), path)
    loaded = runtime.Session(path, threads=1, map_weights=False)
    assert resident_bytes(path) == 0
    session = runtime.Session(path, threads=1)
    assert resident_bytes(path) < path.stat().st_size // 4
    x, index = make_input(np.random.default_rng(1), live=20, channels=CHANNELS, size=(4, 4))
    feeds = {
        "SparseConv": [np.repeat(x[..., :1], CHANNELS, axis=3).transpose(0, 3, 1, 2)],
        "FBSConvInt8": [np.abs(50 * x).astype(np.uint8), index],
    }.get(op, [x, index])
    for y, expected in zip(session.run(feeds), loaded.run(feeds), strict=True):
        np.testing.assert_array_equal(y, expected)
    assert resident_bytes(path) < path.stat().st_size // 4


@needs_library
def test_pages_that_were_given_back_are_read_again(fbs):
    """By the next session, on another instruction set, while the first still maps them."""
    x, index = make_input(np.random.default_rng(1), live=20, channels=CHANNELS)
    sessions = [runtime.Session(fbs, threads=1, isa=isa) for isa in reference.isa_names()]
    winners = [session.run([x, index])[1] for session in sessions]
    for j in winners:
        np.testing.assert_array_equal(j, winners[0])


@needs_library
def test_native_layers_give_the_same_bits_from_either_file(fbs):
    unaligned = fbs.with_name("unaligned.onnx")
    save_unaligned(onnx.load(fbs), unaligned)
    x, index = make_input(np.random.default_rng(1), live=20, channels=CHANNELS)
    for y, expected in zip(
        *(runtime.Session(path, threads=1).run([x, index]) for path in (fbs, unaligned)), strict=True
    ):
        np.testing.assert_array_equal(y, expected)
