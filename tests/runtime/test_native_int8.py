"""The ops on bytes on every instruction set: the same bytes, those of the function body but for rounding, refusals."""

from dataclasses import replace

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest
from native_reference import FLOAT_MAX, int8_model, make_bytes, make_int8_depthwise, make_int8_layer

from exporters.functions import attach_functions

CASES = {
    "plain": {},
    "strided": {"strides": (2, 2)},
    "dilated": {"dilations": (2, 1), "pads": (2, 1, 2, 1)},
    "pointwise": {"kernel": (1, 1)},
    "every output wins": {"winners": 40},
    "shifted outside": {"post_shift": True, "lower": -FLOAT_MAX, "y_zero": 120},
    "signed in and out": {"x_zero": 130, "lower": -FLOAT_MAX, "y_zero": 120},
    "clipped": {"upper": 2.0},
    "normalized": {"normalize": 1},
    "blocks of 16, the last small": {"winner_block": 16, "outputs": 39, "winners": 32},
    "leaky": {"saliency_slope": 0.1, "lower": -FLOAT_MAX, "y_zero": 7},
    "planes without their constants": {"left_out": True, "lower": -FLOAT_MAX, "y_zero": 120, "normalize": 1},
    "predictor in bytes": {"byte_predictor": True, "x_zero": 9},
    "all that may be there": {"left_out": True, "byte_predictor": True, "post_shift": True, "x_zero": 90},
}


def case(name, batch=1, live=13):
    rng = np.random.default_rng(len(name) + batch)
    parts = make_int8_layer(rng, channels=24, **{"winners": 20, "outputs": 40} | CASES[name])
    x, index = make_bytes(rng, live=live, channels=24, batch=batch, size=(9, 8))
    return parts, {"X": x, "I": index}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_the_function_body_gives_the_same_but_for_halves(name, batch):
    parts, feeds = case(name, batch)
    bare = int8_model(*parts)
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    wanted, winners = stock.run(None, feeds)
    results = {isa: reference.open_session(complete, isa).run(None, feeds) for isa in reference.isa_names()}
    for isa, (y, j) in results.items():
        np.testing.assert_array_equal(j, winners, err_msg=isa)
        np.testing.assert_array_equal(y, results["generic"][0], err_msg=isa)
    differences = np.abs(y.astype(int) - wanted)
    assert differences.max() <= 1
    assert (differences > 0).mean() <= 0.005, "float32 sums meet the middle between two bytes rarely"
    assert len(np.unique(y)) > 20
    # Where both are there the kernel wins: the same bytes as without the body.
    np.testing.assert_array_equal(y, reference.open_session(bare).run(None, feeds)[0])


@pytest.mark.parametrize("name", ["plain", "signed in and out", "planes without their constants", "predictor in bytes"])
def test_it_is_the_float_layer_on_what_the_bytes_stand_for(name):
    (layer, whole, scales), feeds = case(name)
    y, j = reference.open_session(int8_model(layer, whole, scales)).run(None, feeds)
    values = (feeds["X"].astype(np.float32) - scales["x_zero"]) * np.float32(scales["x_step"])
    wanted, winners = reference.fbs_conv(layer, values, feeds["I"])
    np.testing.assert_array_equal(j, winners)
    found = (y.astype(np.float32) - scales["y_zero"]) * scales["y_step"]
    inside = (y > 0) & (y < 255)
    assert inside.mean() > 0.3
    assert np.abs(found - wanted)[inside].max() <= 0.5001 * scales["y_step"]


@pytest.mark.parametrize("live", [1, 4, 6, 24])
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_byte(threads, live):
    rng = np.random.default_rng(live)
    parts = make_int8_layer(rng, channels=24, outputs=150, winners=90, x_zero=3)
    x, index = make_bytes(rng, live=live, channels=24, size=(40, 40))
    feeds = {"X": x, "I": index}
    expected = reference.open_session(int8_model(*parts), "generic").run(None, feeds)
    for isa in reference.isa_names():
        for got, want in zip(
            reference.open_session(int8_model(*parts), isa, threads).run(None, feeds), expected, strict=True
        ):
            np.testing.assert_array_equal(got, want, err_msg=isa)


def test_a_steady_state_allocates_nothing():
    for name in ("plain", "signed in and out"):
        parts, feeds = case(name, live=13)
        session = reference.open_session(int8_model(*parts), threads=2)
        assert reference.allocated_after_the_first(session, feeds) == 0


def test_one_session_takes_any_size():
    parts, _ = case("plain")
    session = reference.open_session(int8_model(*parts))
    rng = np.random.default_rng(0)
    for live, size in ((3, (4, 9)), (24, (9, 4)), (5, (1, 1))):
        x, index = make_bytes(rng, live=live, channels=24, batch=2, size=size)
        y, j = session.run(None, {"X": x, "I": index})
        assert y.shape == (2, *size, 20)
        assert j.shape == (2, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_step": 0.0}, "x_step is 0.000000; it must be a positive number"),
        ({"y_step": None}, "attribute y_step is missing; it must be a float"),
        ({"x_zero": 256}, "x_zero is 256; it must be from 0 to 255"),
        ({"y_zero": -1}, "y_zero is -1; it must be from 0 to 255"),
        ({"winners": 41}, "winners is 41; W of shape .* allows 1 to 40"),
        ({"group": 2}, "group is 2; only 1 is supported"),
    ],
)
def test_an_attribute_is_refused(changes, message):
    parts, _ = case("plain")
    with pytest.raises(Exception, match=f"FBSConvInt8: {message}"):
        reference.open_session(int8_model(*parts, **changes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("S", np.ones(39, np.float32), r"S has shape \[39\]; with W of shape \[40, 24, 3, 3\] it must be \[40\]"),
        ("S", np.zeros(40, np.float32), r"S\[0\] is 0.000000; it must be a positive number"),
        ("W", np.zeros((40, 24, 60, 60), np.int8), "W has shape .* an output may sum up at most 65793 products"),
        ("E", np.zeros(23, np.int32), r"E has shape \[23\]; it must be \[24\]"),
        ("E", np.full(24, 65536, np.int32), r"E\[0\] is 65536; it must be from -65535 to 65535 steps of X"),
        ("Q", -np.ones(40, np.float32), r"Q\[0\] is -1.000000; it must be positive, normal and finite"),
    ],
)
def test_a_constant_is_refused(name, value, message):
    (layer, whole, scales), _ = case("all that may be there")
    with pytest.raises(Exception, match=f"FBSConvInt8: {message}"):
        reference.open_session(int8_model(layer, whole | {name: value}, scales))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("A", "A is not int8 and Q is there; it must be absent"),
        ("Q", "A is int8 and Q is missing or no constant; it must hold a step for each output"),
    ],
)
def test_a_predictor_has_steps_just_where_it_is_in_bytes(name, message):
    (layer, whole, scales), _ = case("predictor in bytes")
    del whole[name]
    with pytest.raises(Exception, match=f"FBSConvInt8: {message}"):
        reference.open_session(int8_model(layer, whole, scales))


def test_inputs_are_refused():
    parts, feeds = case("plain")
    session = reference.open_session(int8_model(*parts))
    with pytest.raises(Exception, match=r"FBSConvInt8: I\[0, 1\] is 24; channels go from 0 to 23"):
        session.run(None, {"X": feeds["X"][..., :2], "I": np.array([[0, 24]])})
    with pytest.raises(Exception, match=r"FBSConvInt8: X has shape \[1, 9, 8, 2\]|FBSConvInt8: I has shape"):
        session.run(None, {"X": feeds["X"][..., :2], "I": np.array([[0, 1], [0, 1]])})


BEHIND = {
    "plain": ({}, {}),
    "an inverted residual block's": ({"kernel": (1, 1), "upper": 6.0, "x_zero": 128}, {"upper": 6.0}),
    "strided": ({"strides": (2, 1)}, {"strides": (1, 2)}),
    "dilated": ({"kernel": (1, 1)}, {"dilations": (2, 3), "pads": (2, 3, 2, 3), "kernel": (5, 3)}),
    "one number": ({}, {"kernel": (1, 1)}),
    "padding beyond the filters": ({}, {"pads": (7, 4, 3, 5)}),
    "signed between": ({"lower": -FLOAT_MAX}, {"between_zero": 120, "lower": -FLOAT_MAX, "upper": FLOAT_MAX}),
    "every output wins": ({"winners": 40}, {}),
    "all that may be there": (CASES["all that may be there"], {"between_zero": 3, "lower": -1.0, "upper": 2.0}),
}


def behind_case(name, batch=1, size=(9, 8), live=13):
    of_layer, of_behind = BEHIND[name]
    rng = np.random.default_rng(len(name) + batch)
    settings = {"winners": 20, "outputs": 40, "y_zero": 100} | of_layer
    parts = make_int8_layer(rng, channels=24, **settings)
    x, index = make_bytes(rng, live=live, channels=24, batch=batch, size=size)
    return parts, make_int8_depthwise(rng, settings["outputs"], **of_behind), {"X": x, "I": index}


def depthwise_in_bytes(behind, scales, between, winners):
    """What the depthwise convolution makes of the winners' bytes, each number rounded to float32 where the op does."""
    depthwise, filters, of_between = behind
    values = between.astype(np.float64) - of_between["between_zero"]
    chosen = np.moveaxis(filters["V"][winners][:, :, 0].astype(np.float64), 1, -1)  # (N, kh, kw, k)
    seen = reference.taps(values, depthwise.weight.shape[2:], depthwise)
    sums = sum(plane * chosen[:, None, None, ky, kx] for ky, kx, plane in seen).astype(np.float32)
    step, input_step = (np.float64(np.float32(value)) for value in (scales["y_step"], of_between["between_step"]))
    with np.errstate(over="ignore"):  # what is not clamped
        bounds = np.float32([depthwise.lower, depthwise.upper]) / np.float32(scales["y_step"])
    scale = (filters["G"].astype(np.float64) * input_step / step).astype(np.float32)
    shift = (filters["F"].astype(np.float64) / step).astype(np.float32)
    of_zeros = np.clip(filters["F"], np.float32(depthwise.lower), np.float32(depthwise.upper)).astype(np.float64)
    post = (scales["y_zero"] - of_zeros / step).astype(np.float32)
    scale, shift, post = (row[winners][:, None, None] for row in (scale, shift, post))
    return np.rint(np.clip(np.clip(sums * scale + shift, *bounds) + post, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("size", [(9, 8), (48, 50)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", BEHIND)
def test_a_depthwise_convolution_behind_it(name, threads, size):
    parts, behind, feeds = behind_case(name, size=size)
    layer, whole, scales = parts
    alone = scales | {"y_step": behind[2]["between_step"], "y_zero": behind[2]["between_zero"]}
    between, winners = reference.open_session(int8_model(layer, whole, alone), "generic").run(None, feeds)
    wanted = depthwise_in_bytes(behind, scales, between, winners)
    assert len(np.unique(wanted)) > 20
    for isa in reference.isa_names():
        y, j = reference.open_session(int8_model(*parts, behind=behind), isa, threads).run(None, feeds)
        np.testing.assert_array_equal(j, winners, err_msg=isa)
        np.testing.assert_array_equal(y, wanted, err_msg=isa)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", BEHIND)
def test_the_body_with_a_depthwise_convolution_gives_the_same_but_for_halves(name, batch):
    parts, behind, feeds = behind_case(name, batch)
    bare = int8_model(*parts, behind=behind)
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    wanted, winners = stock.run(None, feeds)
    y, j = reference.open_session(complete).run(None, feeds)
    np.testing.assert_array_equal(j, winners)
    differences = np.abs(y.astype(int) - wanted)
    # A byte between the two convolutions that is rounded the other way changes up to as many as see it, by its weight.
    assert differences.max() <= 3
    assert (differences > 0).mean() <= 0.02
    np.testing.assert_array_equal(y, reference.open_session(bare).run(None, feeds)[0])


def test_a_steady_state_with_a_depthwise_convolution_allocates_nothing():
    parts, behind, feeds = behind_case("an inverted residual block's", size=(48, 50))
    session = reference.open_session(int8_model(*parts, behind=behind), threads=2)
    assert reference.allocated_after_the_first(session, feeds) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"between_step": -1.0}, "between_step is -1.000000; it must be a positive number"),
        ({"between_step": None}, "attribute between_step is missing; it must be a float"),
        ({"between_zero": 256}, "between_zero is 256; it must be from 0 to 255"),
        ({"depthwise_strides": (0, 1)}, "the depthwise convolution, its W being V and its B being F: strides is"),
        ({"V": np.zeros((39, 1, 3, 3), np.int8)}, "the depthwise convolution, .*: W has shape"),
        ({"V": np.zeros((40, 1, 23, 23), np.int8)}, "V has shape .* a filter may have at most 514 numbers"),
        ({"G": np.zeros(40, np.float32)}, r"G\[0\] is 0.000000; it must be a positive number"),
        ({"F": np.zeros(39, np.float32)}, r"the depthwise convolution, .*: B has shape \[39\]"),
    ],
)
def test_a_depthwise_convolution_is_refused(changes, message):
    parts, (depthwise, filters, between), _ = behind_case("plain")
    filters |= {name: value for name, value in changes.items() if name in filters}
    attributes = {name: value for name, value in changes.items() if name not in filters}
    with pytest.raises(Exception, match=f"FBSConvDepthwiseInt8: {message}"):
        reference.open_session(int8_model(*parts, behind=(depthwise, filters, between), **attributes))


def test_planes_too_small_for_the_depthwise_convolution_are_refused():
    parts, behind, feeds = behind_case("dilated")
    depthwise, *rest = behind
    session = reference.open_session(int8_model(*parts, behind=(replace(depthwise, pads=(0, 0, 0, 0)), *rest)))
    with pytest.raises(
        Exception, match=r"FBSConvDepthwiseInt8: the depthwise convolution: X has shape .* smaller than"
    ):
        session.run(None, feeds | {"X": feeds["X"][:, :8, :6]})


def sum_case(channels, batch):
    rng = np.random.default_rng(channels)
    x, index = make_bytes(rng, live=max(1, channels // 2), channels=channels, batch=batch, size=(9, 8))
    z = rng.integers(0, 256, size=(*x.shape[:3], channels)).astype(np.uint8)
    return {"X": x, "I": index, "Z": z}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 15, 16, 33])
def test_unpacked_bytes(channels, batch):
    feeds = sum_case(channels, batch)
    del feeds["Z"]
    bare = reference.unpack_int8_model(channels)
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    expected = reference.unpack(feeds["X"] - 7.0, feeds["I"], channels) + 7
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(stock.run(None, feeds)[0], expected)
    for isa in reference.isa_names():
        for model in (bare, complete):
            np.testing.assert_array_equal(reference.open_session(model, isa, 2).run(None, feeds)[0], expected)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 15, 16, 33])
@pytest.mark.parametrize("lower", [-FLOAT_MAX, 0.0, 0.25])
def test_sums_of_bytes(lower, channels, batch):
    feeds = sum_case(channels, batch)
    scales = reference.SUM_SCALES
    bare = reference.unpack_add_int8_model(channels, lower)
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    x = reference.unpack(feeds["X"] - np.float64(scales["x_zero"]), feeds["I"], channels) * scales["x_step"]
    z = (feeds["Z"] - np.float64(scales["z_zero"])) * scales["z_step"]
    wanted = np.clip(np.maximum(x + z, lower) / scales["y_step"] + scales["y_zero"], 0, 255)
    results = {isa: reference.open_session(bare, isa, 2).run(None, feeds)[0] for isa in reference.isa_names()}
    for isa, y in results.items():
        np.testing.assert_array_equal(y, results["generic"], err_msg=isa)
    assert np.abs(y - wanted).max() <= 0.501
    assert np.abs(y.astype(int) - stock).max() <= 1
    assert (y != stock).mean() <= 0.05, "sums of two steps often meet the middle between two bytes here"
    assert len(np.unique(y)) > 10
    # Where both are there the kernel wins.
    np.testing.assert_array_equal(reference.open_session(complete).run(None, feeds)[0], y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_step": -1.0}, "x_step is -1.000000; it must be a positive number"),
        ({"z_step": None}, "attribute z_step is missing; it must be a float"),
        ({"z_zero": 256}, "z_zero is 256; it must be from 0 to 255"),
        ({"y_step": float("nan")}, "y_step is nan; it must be a positive number"),
    ],
)
def test_a_sum_of_bytes_refuses_an_attribute(changes, message):
    with pytest.raises(Exception, match=f"UnpackAddInt8: {message}"):
        reference.open_session(reference.unpack_add_int8_model(8, **changes))


def test_unpacking_bytes_refuses():
    with pytest.raises(Exception, match="UnpackInt8: zero is 256; it must be from 0 to 255"):
        reference.open_session(reference.unpack_int8_model(8, zero=256))
    with pytest.raises(Exception, match="UnpackInt8: attribute zero is missing; it must be an int"):
        reference.open_session(reference.unpack_int8_model(8, zero=None))
    session = reference.open_session(reference.unpack_int8_model(8))
    with pytest.raises(Exception, match=r"UnpackInt8: I\[0, 1\] is 8; channels go from 0 to 7"):
        session.run(None, {"X": np.zeros((1, 2, 2, 2), np.uint8), "I": np.array([[0, 8]])})
    session = reference.open_session(reference.unpack_add_int8_model(8))
    x, z = np.zeros((1, 2, 3, 2), np.uint8), np.zeros((1, 2, 2, 8), np.uint8)
    with pytest.raises(Exception, match=r"UnpackAddInt8: Z has shape \[1, 2, 2, 8\]; with X of shape"):
        session.run(None, {"X": x, "I": np.array([[0, 7]]), "Z": z})
