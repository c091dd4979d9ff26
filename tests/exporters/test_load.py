import numpy as np
import onnx
import pytest

from exporters import ExportError
from exporters.load import load_onnx


def model(body="y = MatMul(x, w)", domains='"": 21', weight=None):
    text = f"<ir_version: 10, opset_import: [{domains}]> g (float[2,3] x) => (float[2,4] y) {{ {body} }}"
    made = onnx.parser.parse_model(text)
    weight = np.ones((3, 4), np.float32) if weight is None else weight
    made.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return made


def written(path, made, **options):
    onnx.save(made, path, **options)
    return path


def external(folder, *, size_threshold=0):
    return written(
        folder / "m.onnx",
        model(),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=size_threshold,
    )


def test_whole_file_loads(tmp_path):
    assert load_onnx(written(tmp_path / "m.onnx", model())) == model()


def test_external_weights_are_brought_in(tmp_path):
    loaded = load_onnx(external(tmp_path))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(loaded.graph.initializer[0]), np.ones((3, 4)))
    assert not loaded.graph.initializer[0].external_data


def nothing(folder):
    return folder / "absent.onnx"


def a_folder(folder):
    return folder


def text(folder):
    (folder / "m.onnx").write_text("a picture of a cat, not a network\n")
    return folder / "m.onnx"


def empty(folder):
    (folder / "m.onnx").write_bytes(b"")
    return folder / "m.onnx"


def cut(folder):
    path = written(folder / "m.onnx", model())
    path.write_bytes(path.read_bytes()[:-40])
    return path


def too_few_numbers(folder):
    made = model()
    made.graph.initializer[0].raw_data = made.graph.initializer[0].raw_data[:8]
    return written(folder / "m.onnx", made)


def without_weights_file(folder):
    path = external(folder)
    (folder / "weights.bin").unlink()
    return path


def short_weights_file(folder):
    path = external(folder)
    (folder / "weights.bin").write_bytes(b"1234")
    return path


def unknown_op(folder):
    return written(folder / "m.onnx", model("y = Matmull(x, w)"))


def foreign_op(folder):
    return written(folder / "m.onnx", model("y = acme.Mul(x, w)", '"": 21, "acme": 1'))


def half_a_layer(folder):
    return written(folder / "m.onnx", model("y = compress.Unpack(x, w)", '"": 21, "compress": 1'))


def not_a_number(folder):
    return written(folder / "m.onnx", model(weight=np.full((3, 4), np.nan, np.float32)))


def refused_by_checker(folder):
    return written(folder / "m.onnx", model("y = MatMul(x, nobody)"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "no such file; give an ONNX file"),
        (a_folder, "no such file; give an ONNX file"),
        (text, "not an ONNX"),
        (empty, "not an ONNX model"),
        (cut, "not an ONNX file, or cut off"),
        (too_few_numbers, "damaged or cut off: too few numbers in w"),
        (without_weights_file, r"weights lie in other files that are missing: weights\.bin; put them beside it"),
        (short_weights_file, r"external weights cannot be read|damaged or cut off"),
        (unknown_op, r"unknown ops: ai\.onnx\.Matmull"),
        (foreign_op, r"unknown ops: acme\.Mul"),
        (half_a_layer, "lacks the attributes channels"),
        (not_a_number, "weights with NaN or infinity: w; train or load them again"),
        (refused_by_checker, "refused by ONNX's checker"),
    ],
)
def test_bad_file_is_one_clear_line(tmp_path, make, message):
    with pytest.raises(ExportError, match=message) as caught:
        load_onnx(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_refused_with_our_error(tmp_path):
    data = model().SerializeToString()
    for length in range(len(data) - 1):
        path = tmp_path / "m.onnx"
        path.write_bytes(data[:length])
        with pytest.raises(ExportError):
            load_onnx(path)
