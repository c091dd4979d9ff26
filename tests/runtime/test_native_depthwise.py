"""DepthwiseConv on every instruction set: against plain numpy, against its function body, and what it refuses."""

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest
from native_reference import FLOAT_MAX, Depthwise, make_input

from exporters.functions import attach_functions

TOLERANCE = 2e-5  # as test_native_ops

CASES = {
    "plain": {},
    "strided": {"strides": [2, 2]},
    "dilated": {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    "no padding": {"pads": [0, 0, 0, 0]},
    "padding at one corner": {"pads": [0, 0, 1, 2], "strides": [2, 1]},
    "relu": {"upper": FLOAT_MAX},
    "no activation": {"lower": -FLOAT_MAX, "upper": FLOAT_MAX},
}


def constants(rng, channels, kernel=(3, 3)):
    weight = rng.normal(size=(channels, 1, *kernel)).astype(np.float32)
    return weight, rng.normal(size=channels).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("channels", "live"), [(1, 1), (20, 7), (33, 33), (40, 16), (40, 31)])
def test_depthwise(case, channels, live):
    rng = np.random.default_rng(channels + live)
    weight, bias = constants(rng, channels)
    model = reference.depthwise_model(weight, bias, **CASES[case])
    for batch, rows in [(1, 1), (3, 3), (3, 1)]:
        x, index = make_input(rng, live=live, channels=channels, batch=batch, size=(9, 10), rows=rows)
        wanted = reference.depthwise_conv(Depthwise(weight, bias, **CASES[case]), x, index)
        for isa in reference.isa_names():
            (y,) = reference.open_session(model, isa).run(None, {"X": x, "I": index})
            np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(initial=1), err_msg=isa)


@pytest.mark.parametrize("batch", [1, 2])
def test_threads_do_not_change_a_bit(batch):
    rng = np.random.default_rng(0)
    weight, bias = constants(rng, 100, kernel=(5, 5))
    x, index = make_input(rng, live=60, channels=100, batch=batch, size=(40, 41))
    model = reference.depthwise_model(weight, bias, pads=[2, 2, 2, 2])
    for isa in reference.isa_names():
        alone, together = (
            reference.open_session(model, isa, threads).run(None, {"X": x, "I": index})[0] for threads in (1, 3)
        )
        np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 2])
def test_native_depthwise_equals_function_body(case, batch):
    rng = np.random.default_rng(1)
    weight, bias = constants(rng, 12)
    bare = reference.depthwise_model(weight, bias, **CASES[case])
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    for rows in {1, batch}:
        x, index = make_input(rng, live=5, channels=12, batch=batch, size=(7, 8), rows=rows)
        (wanted,) = stock.run(None, {"X": x, "I": index})
        for isa in reference.isa_names():
            (y,) = reference.open_session(complete, isa).run(None, {"X": x, "I": index})
            np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(initial=1), err_msg=isa)


def test_empty_inputs():
    rng = np.random.default_rng(2)
    session = reference.open_session(reference.depthwise_model(*constants(rng, 4)))
    for samples, live in [(0, 3), (2, 0)]:
        feeds = {"X": np.zeros((samples, 5, 6, live), np.float32), "I": np.arange(live)[None]}
        assert session.run(None, feeds)[0].shape == (samples, 5, 6, live)


def test_values_that_are_no_numbers_stay_where_they_are():
    rng = np.random.default_rng(3)
    weight, bias = constants(rng, 20)
    x, index = make_input(rng, live=18, channels=20, size=(6, 6))
    x[0, 0, 0, 4] = np.nan
    for isa in reference.isa_names():
        (y,) = reference.open_session(reference.depthwise_model(weight, bias), isa).run(None, {"X": x, "I": index})
        found = np.isnan(y)
        assert found[0, :2, :2, 4].all()
        assert found.sum() == 4


@pytest.mark.parametrize(
    ("shape", "expected_shape"),
    [
        ((2, 9, 8, 4), [2, 5, 4, 4]),
        (("batch", "H", 8, "Cx"), ["batch", "conv(H,3,2,1,2)", 4, "Cx"]),
        ((None, 9, 8, 4), [None] * 4),
    ],
)
def test_shapes_are_known_before_the_first_run(shape, expected_shape):
    model = reference.depthwise_model(*constants(np.random.default_rng(0), 8), shape=shape, strides=[2, 2])
    (y,) = reference.open_session(model).get_outputs()
    assert y.shape == expected_shape


WEIGHT, BIAS = np.zeros((4, 1, 3, 3), np.float32), np.zeros(4, np.float32)
LOADING = {
    "two inputs a filter": (np.zeros((4, 2, 3, 3), np.float32), BIAS, {}, r"W has shape \[4, 2, 3, 3\]; it must be"),
    "other channels": (WEIGHT, BIAS, {"channels": 5}, r".* it must be \[C, 1, kh, kw\] with C = channels = 5"),
    "no channels": (WEIGHT, BIAS, {"channels": None}, "attribute channels is missing"),
    "short bias": (WEIGHT, BIAS[:3], {}, r"B has shape \[3\]; with W of shape \[4, 1, 3, 3\] it must be \[4\]"),
    "one stride": (WEIGHT, BIAS, {"strides": [1]}, r"strides is \[1\]; it needs 2 values"),
    "clamp upside down": (WEIGHT, BIAS, {"lower": 2.0, "upper": 1.0}, ".* lower must not be above upper"),
    "computed weights": (WEIGHT, BIAS, {"computed": True}, "input W is not a constant"),
}


@pytest.mark.parametrize("case", LOADING)
def test_a_layer_is_refused_when_it_is_loaded(case):
    weight, bias, changes, message = LOADING[case]
    with pytest.raises(Exception, match=f"DepthwiseConv: {message}"):
        reference.open_session(reference.depthwise_model(weight, bias, **changes))


@pytest.mark.parametrize(
    ("x", "index", "message"),
    [
        ((1, 5, 5, 5), [[0, 1, 2, 3, 4]], ".* with k up to channels = 4"),
        ((1, 5, 5, 2), [[1, 1]], ".* each row must be ascending"),
        ((1, 0, 5, 1), [[1]], ".* its planes must have 1 pixel or more"),
        ((1, 1, 1, 1), [[1]], r"X has shape \[1, 1, 1, 1\], smaller than the kernel"),
    ],
)
def test_an_input_is_refused(x, index, message):
    session = reference.open_session(reference.depthwise_model(WEIGHT, BIAS, pads=[0, 0, 0, 0]))
    with pytest.raises(Exception, match=f"DepthwiseConv: {message}"):
        session.run(None, {"X": np.zeros(x, np.float32), "I": np.array(index)})
