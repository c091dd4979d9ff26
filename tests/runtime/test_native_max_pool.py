"""MaxPoolNHWC on every instruction set: against ONNX Runtime's MaxPool in its function body, and what it refuses."""

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest

from exporters.functions import attach_functions

WINDOWS = {
    "2x2": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "3x3, padded": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "overlapping": {"kernel_shape": [3, 2], "strides": [1, 1], "pads": [2, 0, 1, 1]},
    "apart": {"kernel_shape": [1, 2], "strides": [2, 3]},
    "dilated": {"kernel_shape": [2, 3], "strides": [1, 2], "dilations": [2, 1]},
    "whole plane": {"kernel_shape": [7, 9], "strides": [1, 1]},
}


def attributes(window):
    return {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]} | WINDOWS[window]


def stock(bare):
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    return onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", [1, 15, 16, 17, 48])
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 3), (4, 3)])
def test_equals_its_body_on_every_instruction_set(window, channels, batch, threads):
    bare = reference.max_pool_model(**attributes(window))
    for size in ((7, 9), (30, 41)):
        x = np.random.default_rng(channels).normal(size=(batch, *size, channels)).astype(np.float32)
        (wanted,) = stock(bare).run(None, {"X": x})
        for isa in reference.isa_names():
            (y,) = reference.open_session(bare, isa, threads).run(None, {"X": x})
            np.testing.assert_array_equal(y, wanted, err_msg=isa)


def test_its_shape_is_known_before_it_runs():
    session = reference.open_session(reference.max_pool_model(("N", 30, 41, 5), **attributes("3x3, padded")))
    assert session.get_outputs()[0].shape == ["N", 15, 21, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_shape": [3]}, r"kernel_shape is \[3\]; it needs 2 values from 1"),
        ({"strides": [0, 1]}, r"strides is \[0, 1\]; it needs 2 values from 1"),
        ({"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]}, "each must be smaller than its kernel"),
        ({"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [1, 0, 0, 0]}, "0 where that is dilated"),
    ],
)
def test_a_pool_is_refused_when_it_is_loaded(changes, message):
    with pytest.raises(Exception, match=f"MaxPoolNHWC: .*{message}"):
        reference.open_session(reference.max_pool_model(**(attributes("2x2") | changes)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 4, 4), r"X has shape \[4, 4, 4\]; it must be \[N, H, W, C\]"), ((1, 1, 4, 3), "smaller than kernel_shape")],
)
def test_an_input_is_refused(shape, message):
    session = reference.open_session(reference.max_pool_model([None] * len(shape), **attributes("2x2")))
    with pytest.raises(Exception, match=f"MaxPoolNHWC: .*{message}"):
        session.run(None, {"X": np.zeros(shape, np.float32)})


def test_nothing_in_nothing_out():
    session = reference.open_session(reference.max_pool_model(**attributes("2x2")))
    assert session.run(None, {"X": np.zeros((0, 4, 4, 3), np.float32)})[0].shape == (0, 2, 2, 3)
