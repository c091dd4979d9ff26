"""Linear on every instruction set: against plain numpy, against its function body, and what it refuses."""

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest
from native_reference import FLOAT_MAX, make_input

from exporters.functions import attach_functions

# float32 sums of some hundred terms in another order, of the largest output.
TOLERANCE = 2e-5


def layer(rng, channels, pixels, outputs):
    weight = rng.normal(size=(channels * pixels, outputs)).astype(np.float32)
    return weight, rng.normal(size=outputs).astype(np.float32)


def expected(x, index, weight, bias, channels, lower):
    dense = reference.unpack(x, index, channels).transpose(0, 3, 1, 2).reshape(len(x), -1)
    return np.maximum(dense.astype(np.float64) @ weight + bias, lower)


@pytest.mark.parametrize("outputs", [1, 10, 16, 33, 160])
@pytest.mark.parametrize("live", [1, 7, 20])
@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (3, 3), (3, 1)])
def test_linear(outputs, live, batch, rows):
    rng = np.random.default_rng(outputs * 10 + live)
    weight, bias = layer(rng, 20, 6, outputs)
    x, index = make_input(rng, live=live, channels=20, batch=batch, size=(2, 3), rows=rows)
    for lower in (-FLOAT_MAX, 0.0):
        wanted = expected(x, index, weight, bias, 20, lower)
        for isa in reference.isa_names():
            session = reference.open_session(reference.linear_model(weight, bias, 20, lower), isa)
            (y,) = session.run(None, {"X": x, "I": index})
            np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(initial=1), err_msg=isa)


@pytest.mark.parametrize("outputs", [1, 33])
@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (3, 3), (3, 1)])
def test_planes_are_averaged(outputs, batch, rows):
    rng = np.random.default_rng(outputs)
    weight, bias = layer(rng, 20, 1, outputs)
    x, index = make_input(rng, live=7, channels=20, batch=batch, size=(2, 3), rows=rows)
    bare = reference.linear_model(weight, bias, 20, 0.0, average=1)
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    wanted = expected(x.mean(axis=(1, 2), keepdims=True), index, weight, bias, 20, 0.0)
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    sessions = [stock, *(reference.open_session(bare, isa, threads=2) for isa in reference.isa_names())]
    for session in sessions:
        (y,) = session.run(None, {"X": x, "I": index})
        np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(initial=1))


@pytest.mark.parametrize("threads", [1, 3])
def test_large_layers_are_cut_without_changing_a_bit(threads):
    # More weights than the samples share at a time, and more work than one thread is given.
    rng = np.random.default_rng(0)
    weight, bias = layer(rng, 300, 4, 512)
    x, index = make_input(rng, live=150, channels=300, batch=4, size=(2, 2))
    wanted = expected(x, index, weight, bias, 300, -FLOAT_MAX)
    for isa in reference.isa_names():
        session = reference.open_session(reference.linear_model(weight, bias, 300), isa, threads)
        (together,) = session.run(None, {"X": x, "I": index})
        np.testing.assert_allclose(together, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(), err_msg=isa)
        (alone,) = reference.open_session(reference.linear_model(weight, bias, 300), isa).run(
            None, {"X": x, "I": index}
        )
        np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("outputs", [1, 33, 160])
@pytest.mark.parametrize("batch", [1, 3])
def test_weights_of_16_bits_are_those_of_32_to_the_bit(outputs, batch):
    rng = np.random.default_rng(outputs)
    weight, bias = layer(rng, 20, 6, outputs)
    halves = weight.astype(np.float16)
    x, index = make_input(rng, live=7, channels=20, batch=batch, size=(2, 3))
    for isa in reference.isa_names():
        got, wanted = (
            reference.open_session(reference.linear_model(values, bias, 20), isa).run(None, {"X": x, "I": index})[0]
            for values in (halves, halves.astype(np.float32))
        )
        np.testing.assert_array_equal(got, wanted, err_msg=isa)


@pytest.mark.parametrize("outputs", [1, 33, 160])
@pytest.mark.parametrize("batch", [1, 3])
def test_weights_of_8_bits_are_those_of_32(outputs, batch):
    rng = np.random.default_rng(outputs)
    weight, bias = layer(rng, 20, 6, outputs)
    narrow, steps = reference.bytes_and_steps(weight, 1)
    x, index = make_input(rng, live=7, channels=20, batch=batch, size=(2, 3))
    wanted = expected(x, index, narrow * steps, bias, 20, -FLOAT_MAX)
    for isa in reference.isa_names():
        model = reference.linear_model(narrow, bias, 20, steps=steps)
        (got,) = reference.open_session(model, isa).run(None, {"X": x, "I": index})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(), err_msg=isa)


def test_a_linear_layer_of_8_bits_needs_its_steps():
    narrow, bias = np.ones((24, 7), np.int8), np.zeros(7, np.float32)
    with pytest.raises(Exception, match="Linear: W is int8 and P is missing or no constant"):
        reference.open_session(reference.linear_model(narrow, bias, 4))
    with pytest.raises(Exception, match=r"Linear: P\[6\] is 0.0*; it must be positive"):
        reference.open_session(
            reference.linear_model(narrow, bias, 4, steps=np.arange(7, dtype=np.float32)[::-1].copy())
        )


def test_a_linear_layer_of_16_bits_must_be_finite():
    model = reference.linear_model(np.full((24, 7), np.inf, np.float16), np.zeros(7, np.float32), 4)
    with pytest.raises(Exception, match="Linear: W holds values that are not finite"):
        reference.open_session(model)


@pytest.mark.parametrize("precision", [np.float32, np.float16])
@pytest.mark.parametrize("lower", [-FLOAT_MAX, 0.0, 0.5])
@pytest.mark.parametrize("batch", [1, 2])
def test_native_linear_equals_function_body(lower, batch, precision):
    rng = np.random.default_rng(1)
    weight, bias = layer(rng, 12, 15, 9)
    weight = weight.astype(precision)
    x, index = make_input(rng, live=5, channels=12, batch=batch, size=(3, 5))
    bare = reference.linear_model(weight, bias, 12, lower)
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    (wanted,) = stock.run(None, {"X": x, "I": index})
    for isa in reference.isa_names():
        (y,) = reference.open_session(complete, isa).run(None, {"X": x, "I": index})
        np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("rows", "bias", "channels", "message"),
    [
        (24, 7, 5, r"W has shape \[24, 7\]; it must be \[C \* H \* W, K\] with C = channels = 5"),
        (24, 6, 4, r"B has shape \[6\]; with W of shape \[24, 7\] it must be \[7\]"),
        (24, 7, 0, "channels is 0; it must be 1 or more"),
    ],
)
@pytest.mark.parametrize("average", [0, 1])
def test_a_linear_layer_is_refused(rows, bias, channels, message, average):
    if (average, bias) == (1, 6):
        message = r"W has shape \[24, 7\]; with average it must be \[C, K\] with C = channels = 4"
    model = reference.linear_model(
        np.zeros((rows, 7), np.float32), np.zeros(bias, np.float32), channels, average=average
    )
    with pytest.raises(Exception, match=f"Linear: {message}"):
        reference.open_session(model)


def test_what_is_averaged_must_be_said_and_be_there():
    weight, bias = np.zeros((4, 7), np.float32), np.zeros(7, np.float32)
    with pytest.raises(Exception, match="Linear: average is 2; it must be 0 or 1"):
        reference.open_session(reference.linear_model(weight, bias, 4, average=2))
    session = reference.open_session(reference.linear_model(weight, bias, 4, average=1))
    with pytest.raises(Exception, match=r"Linear: .* planes must have 1 pixel or more to be averaged"):
        session.run(None, {"X": np.zeros((1, 0, 3, 2), np.float32), "I": np.array([[0, 1]])})


@pytest.mark.parametrize(
    ("x", "index", "message"),
    [
        ((1, 2, 2, 3), [[0, 1, 3]], r"X has shape \[1, 2, 2, 3\]; .* its planes must have 6 pixels"),
        ((1, 2, 3, 5), [[0, 1, 2, 3, 4]], ".* with k up to channels = 4"),
        ((1, 2, 3, 2), [[1, 1]], ".* each row must be ascending"),
    ],
)
def test_a_linear_input_is_refused(x, index, message):
    model = reference.linear_model(np.zeros((24, 7), np.float32), np.zeros(7, np.float32), 4)
    session = reference.open_session(model)
    with pytest.raises(Exception, match=f"Linear: {message}"):
        session.run(None, {"X": np.zeros(x, np.float32), "I": np.array(index)})
