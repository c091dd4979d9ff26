"""FBSConv by products of matrices of bfloat16, of floats three each, where the processor has them (AMX)."""

import native_reference as reference
import numpy as np
import onnx
import pytest
from native_reference import make_input, make_layer

from runtime.library import way_of

TOLERANCE = 2e-5  # as in test_native_ops.py
ISA = "amx"

pytestmark = pytest.mark.skipif(ISA not in reference.isa_names(), reason="this processor does not multiply matrices")


def rounded(layer, rounding):
    """The layer with weights of 8 or of 16 bits, and the same numbers as floats."""
    if rounding == "bytes":
        return reference.in_bytes(layer)
    halves = layer.constants["W"].astype(np.float16)
    wide = layer.changed(constants=layer.constants | {"W": halves.astype(np.float32)})
    return layer.changed(constants=layer.constants | {"W": halves}), wide


def outputs(layer, x, index, *, way="matrix", threads=1):
    return reference.open_session(reference.fbs_model(layer), ISA, threads=threads, way=way).run(
        None, {"X": x, "I": index}
    )


def way_taken(layer, x, index, name):
    model = onnx.load_from_string(reference.fbs_model(layer))
    model.graph.node[0].name = name
    session = reference.open_session(model.SerializeToString(), ISA)
    session.run(None, {"X": x, "I": index})
    return way_of(name)


@pytest.mark.parametrize("rounding", ["bytes", "halves"])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
        {"kernel": (1, 1), "pads": (0, 0, 0, 0), "strides": (2, 2)},
        {"kernel": (1, 1), "pads": (1, 0, 2, 1), "strides": (3, 2)},
        {"kernel": (3, 3), "pads": (1, 1, 1, 1)},
        {"kernel": (3, 3), "pads": (0, 2, 1, 0), "strides": (2, 1)},
        {"kernel": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 2)},
        {"kernel": (3, 3), "pads": (2, 2, 2, 2), "dilations": (2, 2)},
        {"kernel": (3, 2), "pads": (3, 1, 0, 2), "dilations": (1, 3), "strides": (2, 3)},
        {"kernel": (7, 7), "pads": (3, 3, 3, 3), "strides": (2, 2)},
        {"kernel": (1, 5), "pads": (0, 2, 0, 2)},
    ],
    ids=str,
)
def test_every_window_is_right_and_the_same_on_any_number_of_threads(window, rounding):
    rng = np.random.default_rng(0)
    for channels, live, winners in [(3, 3, 20), (1, 1, 7), (6, 5, 33), (70, 32, 64), (70, 41, 50), (130, 70, 90)]:
        layer = make_layer(rng, channels=channels, outputs=100, winners=winners, **window)
        narrow, wide = rounded(layer, rounding)
        for size in [(13, 17), (5, 9), (40, 31)]:
            x, index = make_input(rng, live=live, channels=channels, size=size, batch=2)
            y, j = reference.fbs_conv(wide, x, index)
            results = [outputs(narrow, x, index, threads=threads) for threads in (1, 3, 4)]
            for got_y, got_j in results:
                np.testing.assert_array_equal(got_j, j)
                np.testing.assert_array_equal(got_y, results[0][0])
            np.testing.assert_allclose(results[0][0], y, rtol=0, atol=TOLERANCE * np.abs(y).max())


@pytest.mark.parametrize("rounding", ["bytes", "halves"])
@pytest.mark.parametrize("size", [(7, 7), (30, 28), (57, 61)])
def test_many_weights_and_large_planes_come_a_few_at_a_time(size, rounding):
    rng = np.random.default_rng(0)
    layer = make_layer(rng, channels=320, outputs=300, winners=150)
    narrow, _ = rounded(layer, rounding)
    x, index = make_input(rng, live=160, channels=320, size=size)
    plain, _ = outputs(narrow, x, index, way="packed")
    results = [outputs(narrow, x, index, threads=threads)[0] for threads in (1, 2, 3, 4)]
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    np.testing.assert_allclose(results[0], plain, rtol=0, atol=TOLERANCE * np.abs(plain).max())


@pytest.mark.parametrize("rounding", ["bytes", "halves"])
def test_no_more_is_rounded_than_in_plain_sums(rounding):
    rng = np.random.default_rng(0)
    for channels, size in [(64, (14, 14)), (512, (7, 7))]:
        layer = make_layer(rng, channels=channels, outputs=64, winners=32)
        narrow, wide = rounded(layer, rounding)
        x, index = make_input(rng, live=channels // 2, channels=channels, size=size)
        exact = wide.changed(constants={name: value.astype(np.float64) for name, value in wide.constants.items()})
        y, _ = reference.fbs_conv(exact, x.astype(np.float64), index)
        errors = [np.abs(outputs(narrow, x, index, way=way)[0] - y).mean() for way in ("matrix", "packed")]
        assert errors[0] < 1.2 * errors[1], (channels, size)


def test_large_and_small_numbers_keep_their_digits():
    """A float's three parts are its 24 bits, whatever its size; the products of tiny ones are as tiny."""
    rng = np.random.default_rng(0)
    layer, wide = rounded(make_layer(rng, channels=40, outputs=32, kernel=(1, 1), winners=16), "bytes")
    x, index = make_input(rng, live=33, channels=40, size=(5, 5))
    for exponent in (-60, -30, 30, 60):
        scaled = np.ldexp(x, exponent)
        y, _ = reference.fbs_conv(wide, scaled, index)
        got, _ = outputs(layer, scaled, index)
        np.testing.assert_allclose(got, y, rtol=0, atol=TOLERANCE * np.abs(y).max())


def test_the_bias_what_is_added_behind_it_and_the_limits_count():
    rng = np.random.default_rng(0)
    layer = make_layer(rng, channels=48, outputs=40, winners=23, post_shift=True, left_out=True, lower=-0.5, upper=0.75)
    narrow, wide = rounded(layer, "bytes")
    x, index = make_input(rng, live=31, channels=48, size=(11, 12))
    y, j = reference.fbs_conv(wide, x, index)
    got_y, got_j = outputs(narrow, x, index)
    np.testing.assert_array_equal(got_j, j)
    np.testing.assert_allclose(got_y, y, rtol=0, atol=TOLERANCE)


def test_matrices_are_multiplied_where_it_takes_less_time():
    """Not where weights are floats, all outputs win, or the layer is small."""
    rng = np.random.default_rng(0)
    large = {"channels": 128, "outputs": 128, "winners": 64}
    ways = {}
    for name, settings, size, rounding in [
        ("bytes", large, 16, "bytes"),
        ("halves", large | {"kernel": (1, 1)}, 16, "halves"),
        ("floats", large, 16, None),
        ("whole", large | {"winners": 128}, 16, "bytes"),
        ("few channels", large | {"channels": 4, "kernel": (1, 1)}, 16, "bytes"),
    ]:
        layer = make_layer(rng, **settings)
        if rounding is not None:
            layer, _ = rounded(layer, rounding)
        channels = settings["channels"]
        x, index = make_input(rng, live=channels // 2, channels=channels, size=(size, size))
        ways[name] = way_taken(layer, x, index, f"matrices of {name}")
    assert [name for name, way in ways.items() if way == "matrix"] == ["bytes", "halves"]
