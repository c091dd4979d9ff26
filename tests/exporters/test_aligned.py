import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.store import save_model
from runtime.model_file import ALIGNMENT, LEAST_BYTES, read_model


def model_of(sizes, *, padding=0, description=""):
    """A sum of uint8 weights of so many bytes each, and metadata that shifts everything behind it."""
    weights = [numpy_helper.from_array(np.arange(size).astype(np.uint8), f"w{i}") for i, size in enumerate(sizes)]
    for weight in weights:
        if description:
            weight.doc_string = description
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Concat", [weight.name for weight in weights], ["y"], axis=0)],
        "sum",
        [],
        [value("y", TensorProto.UINT8, [sum(sizes)])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"padding": "x" * padding})
    return model


def places(path):
    content = onnx.load_from_string(read_model(path).content)
    return [
        int(next(entry.value for entry in tensor.external_data if entry.key == "offset"))
        for tensor in content.graph.initializer
        if tensor.external_data
    ]


@pytest.mark.parametrize("description", ["", "of the first layer, größer als"])
def test_every_reader_finds_the_same_model(tmp_path, description):
    path = tmp_path / "m.onnx"
    model = model_of([LEAST_BYTES, 7, LEAST_BYTES + 1, LEAST_BYTES - 1, 3 * LEAST_BYTES + 5], description=description)
    save_model(model, path)
    onnx.checker.check_model(path, full_check=True)
    read = onnx.load(path)
    for tensor, original in zip(read.graph.initializer, model.graph.initializer, strict=True):
        assert tensor.doc_string == original.doc_string
        if not original.HasField("doc_string"):
            tensor.ClearField("doc_string")  # empty is not the same as absent to ==
    assert read == model
    assert len(places(path)) == 3


def test_large_weights_are_aligned_whatever_stands_before_them(tmp_path):
    path = tmp_path / "m.onnx"
    sizes = [LEAST_BYTES + 3, LEAST_BYTES, LEAST_BYTES + 60]
    for padding in range(2 * ALIGNMENT + 4):
        model = model_of(sizes, padding=padding)
        save_model(model, path)
        assert [place % ALIGNMENT for place in places(path)] == [0, 0, 0]
        assert path.stat().st_size <= model.ByteSize() + len(sizes) * (ALIGNMENT + 10)


def test_around_a_length_of_one_digit_more_the_file_is_right(tmp_path):
    """2 MiB take a fourth digit; gaps must not make the length another than the one that is written."""
    path = tmp_path / "m.onnx"
    for size in range(2**21 - 360, 2**21 - 160, 7):
        model = model_of([size])
        save_model(model, path)
        assert onnx.load(path).graph.initializer[0].raw_data == model.graph.initializer[0].raw_data


def test_equal_models_give_equal_bytes(tmp_path):
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        save_model(model_of([LEAST_BYTES, 3], description="x"), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_gaps_never_make_a_file_too_large(tmp_path):
    path = tmp_path / "m.onnx"
    model = model_of([LEAST_BYTES + 3, LEAST_BYTES])
    save_model(model, path, limit_bytes=model.ByteSize())
    assert path.read_bytes() == model.SerializeToString(deterministic=True)
    save_model(model, path, limit_bytes=model.ByteSize() + 2 * ALIGNMENT + 20)
    assert [place % ALIGNMENT for place in places(path)] == [0, 0]
