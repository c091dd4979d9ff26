import subprocess
import sys
from pathlib import Path

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest
from native_reference import make_input, make_layer
from onnx import TensorProto, helper

import runtime
from exporters.functions import attach_functions
from runtime.isas import Isa, choose_isa

needs_library = pytest.mark.skipif(runtime.library_path() is None, reason="the native library is not built")


@pytest.fixture
def without_library(monkeypatch):
    monkeypatch.setattr("runtime.session.library_path", lambda: None)
    monkeypatch.setattr("runtime.library.library_path", lambda: None)


@pytest.fixture
def feeds():
    x, index = make_input(np.random.default_rng(1), live=4, channels=8)
    return [x, index]


@pytest.fixture
def native_only(tmp_path):
    layer = make_layer(np.random.default_rng(0), channels=8, outputs=12, winners=5)
    path = tmp_path / "native_only.onnx"
    path.write_bytes(reference.fbs_model(layer))
    return path


@pytest.fixture
def complete(native_only):
    """The same model with its function body."""
    path = native_only.with_name("complete.onnx")
    onnx.save(attach_functions(onnx.load(native_only)), path)
    return path


@pytest.fixture
def plain(tmp_path):
    """A model without any node of ours."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["X"], ["Y"])],
        "plain",
        [value("X", TensorProto.FLOAT, [2])],
        [value("Y", TensorProto.FLOAT, [2])],
    )
    path = tmp_path / "plain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@needs_library
def test_takes_the_best_instruction_set_and_says_so(complete, feeds):
    session = runtime.Session(complete, threads=1)
    assert session.isa == reference.isa_names()[0]
    assert session.describe() == f"{complete}: native kernels, {session.isa}"
    assert session.warnings == ()
    y, j = session.run(feeds)
    by_name = session.run({"I": feeds[1], "X": feeds[0]})
    np.testing.assert_array_equal(y, by_name[0])
    stock_y, stock_j = runtime.Session(complete, stock=True, threads=1).run(feeds)
    np.testing.assert_array_equal(j, stock_j)
    np.testing.assert_allclose(y, stock_y, atol=1e-5)


@needs_library
@pytest.mark.parametrize("isa", reference.isa_names())
def test_takes_the_instruction_set_it_is_told(native_only, feeds, isa):
    session = runtime.Session(native_only, isa=isa, threads=2)
    assert session.isa == isa
    session.run(feeds)


def test_stock_runs_the_function_bodies_and_says_so(complete, feeds):
    session = runtime.Session(complete, stock=True)
    assert session.isa is None
    assert session.describe().endswith(
        "stock ONNX Runtime, FBS and sparse layers on their function bodies, as asked for"
    )
    assert session.warnings == ()
    session.run(feeds)


def test_a_model_without_fbs_layers_runs_on_stock(plain):
    session = runtime.Session(plain)
    assert session.isa is None
    assert session.describe().endswith("stock ONNX Runtime: the model has no FBS or sparse layers")
    np.testing.assert_array_equal(session.run([np.array([-1, 2], np.float32)])[0], [0, 2])


def test_a_missing_library_is_never_silent(without_library, complete, plain, feeds):
    session = runtime.Session(complete)
    assert session.isa is None
    assert session.describe().endswith("on their function bodies: the native library is not built")
    assert len(session.warnings) == 1
    assert "build it with" in session.warnings[0]
    session.run(feeds)
    assert runtime.Session(plain).warnings == ()
    with pytest.raises(runtime.LibraryNotFoundError, match="'avx2' was asked for, but the native library is not built"):
        runtime.Session(complete, isa="avx2")


def test_without_a_library_generic_is_listed_as_not_built(without_library):
    (isa,) = runtime.isas()
    assert (isa.name, isa.built) == ("generic", False)


def test_a_model_that_needs_the_library_says_so(without_library, native_only):
    with pytest.raises(runtime.SessionError, match="FBSConv"):
        runtime.Session(native_only)


@needs_library
def test_an_unknown_instruction_set_is_refused(complete):
    names = ", ".join(reference.isa_names())
    with pytest.raises(runtime.UnavailableIsaError, match=f"unknown instruction set 'sse9'; choose from: {names}"):
        runtime.Session(complete, isa="sse9")


def test_an_instruction_set_of_another_machine_is_refused():
    isas = [Isa("fast", "", supported=False, built=True), Isa("generic", "", supported=True, built=True)]
    assert choose_isa(None, isas).name == "generic"
    with pytest.raises(runtime.UnavailableIsaError, match=r"does not have the instruction set 'fast'; .*: generic"):
        choose_isa("fast", isas)
    with pytest.raises(runtime.UnavailableIsaError, match=r"not built, .* 'generic'; choose from: none"):
        choose_isa("generic", [Isa("generic", "", supported=True, built=False)])


def test_wrong_arguments_are_refused(plain, tmp_path):
    with pytest.raises(ValueError, match="threads is -1; it must be 0"):
        runtime.Session(plain, threads=-1)
    with pytest.raises(ValueError, match="stock=True runs no native kernels, so isa 'avx2'"):
        runtime.Session(plain, stock=True, isa="avx2")
    with pytest.raises(runtime.SessionError, match=r"none\.onnx cannot be read: No such file"):
        runtime.Session(tmp_path / "none.onnx")
    with pytest.raises(runtime.SessionError, match="cannot be read: Is a directory"):
        runtime.Session(tmp_path)
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(runtime.SessionError, match="is empty"):
        runtime.Session(tmp_path / "empty.onnx")
    (tmp_path / "text.onnx").write_text("this is no model")
    with pytest.raises(runtime.SessionError, match=r"text\.onnx: "):
        runtime.Session(tmp_path / "text.onnx")


def test_wrong_inputs_are_refused(plain):
    session = runtime.Session(plain)
    with pytest.raises(runtime.SessionError, match="2 inputs were given; it takes 1: X"):
        session.run([np.zeros(2, np.float32)] * 2)
    with pytest.raises(runtime.SessionError, match=r"plain\.onnx: "):
        session.run([np.zeros(3, np.float32)])


@needs_library
def test_a_kernel_that_refuses_is_heard(complete, feeds):
    session = runtime.Session(complete)
    with pytest.raises(runtime.SessionError, match=r"FBSConv: I\[0, 0\] is -1; channels go from 0 to 7"):
        session.run([feeds[0], np.array([[-1, 1, 2, 3]])])


def test_the_library_can_be_put_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESS_LIBRARY", str(tmp_path / "gone.so"))
    with pytest.raises(runtime.LibraryNotFoundError, match=r"COMPRESS_LIBRARY is '.*gone\.so', which is not a file"):
        runtime.library_path()
    wrong = tmp_path / "wrong.so"
    wrong.write_text("no library")
    monkeypatch.setenv("COMPRESS_LIBRARY", str(wrong))
    assert runtime.library_path() == wrong
    with pytest.raises(runtime.LibraryNotFoundError, match="is not the library of native ops"):
        runtime.isas()


def test_import_has_no_effect_and_needs_no_torch():
    program = """
import sys, threading
for name in ("torch", "torchvision", "onnx", "onnxscript"):
    sys.modules[name] = None
import runtime
assert threading.active_count() == 1
with open("/proc/self/maps") as maps:
    assert "compress_ops" not in maps.read(), "importing loaded the native library"
runtime.isas()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr


def test_onnx_runtime_is_recent_enough_for_the_table_we_ask_for():
    major, minor = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    assert (major, minor) >= (1, 18)
