"""FBSConv and Unpack on every instruction set, against plain numpy."""

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest
from native_reference import FLOAT_MAX, make_input, make_layer

from exporters.functions import attach_functions
from runtime.library import way_of

# float32 sums in another order, against float64: measured below 2e-6 of the largest output.
TOLERANCE = 2e-5

ISAS = reference.isa_names()


def run(layer, x, index, isa, threads=1):
    session = reference.open_session(reference.fbs_model(layer), isa, threads)
    return session.run(None, {"X": x, "I": index})


def assert_right(layer, x, index, threads=1):
    """Every instruction set gives the reference's numbers and, to the bit, the same winners."""
    y, j = reference.fbs_conv(layer, x, index)
    for isa in ISAS:
        got_y, got_j = run(layer, x, index, isa, threads)
        np.testing.assert_array_equal(got_j, j, err_msg=isa)
        assert got_y.shape == y.shape, isa
        scale = max(1.0, float(np.abs(y).max(initial=0)))
        np.testing.assert_allclose(got_y, y, rtol=0, atol=TOLERANCE * scale, err_msg=isa)


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_ragged_channels(channels, outputs, kernel):
    rng = np.random.default_rng(channels * 100 + outputs)
    for winners in {1, (outputs + 1) // 2, outputs}:
        layer = make_layer(rng, channels=channels, outputs=outputs, kernel=kernel, winners=winners)
        for live in {channels, (channels + 1) // 2}:
            x, index = make_input(rng, live=live, channels=channels, size=(5, 7))
            assert_right(layer, x, index)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 3), (4, 1), (7, 7), (8, 8), (17, 19)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (7, 7), (1, 3)])
def test_plane_sizes(size, kernel):
    rng = np.random.default_rng(size[0] * 20 + size[1])
    for strides in [(1, 1), (2, 2)]:
        layer = make_layer(rng, channels=6, outputs=20, kernel=kernel, winners=9, strides=strides)
        x, index = make_input(rng, live=4, channels=6, size=size)
        assert_right(layer, x, index)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_channel_counts_that_share_cache_sets(strides):
    # The kernel has one tap and the input a multiple of 1024 channels: the input is laid out anew.
    rng = np.random.default_rng(4)
    for left_out in (False, True):
        layer = make_layer(rng, channels=1024, outputs=20, kernel=(1, 1), winners=9, strides=strides, left_out=left_out)
        x, index = make_input(rng, live=1024, channels=1024, size=(5, 6), batch=2)
        assert_right(layer, x, index)


@pytest.mark.parametrize("live", [1, 15, 16, 40, 130])
def test_what_planes_leave_out_counts_in_every_channel(live):
    # Many channels are summed pixel by pixel, few vector by vector.
    rng = np.random.default_rng(live)
    layer = make_layer(rng, channels=140, outputs=30, winners=11, left_out=True)
    x, index = make_input(rng, live=live, channels=140, size=(9, 15))
    assert_right(layer, x, index)


@pytest.mark.parametrize("outputs", [1, 15, 33, 80])
@pytest.mark.parametrize("left_out", [False, True])
def test_predictors_of_16_bits_are_those_of_32_to_the_bit(outputs, left_out):
    rng = np.random.default_rng(outputs)
    wide = make_layer(rng, channels=19, outputs=outputs, winners=(outputs + 1) // 2, left_out=left_out, normalize=1)
    halves = wide.constants["A"].astype(np.float16)
    halves[3, 0], halves[5, 0], halves[7, 0] = 0.0, 6e-8, -65504.0  # zero, the smallest and the largest
    narrow = wide.changed(constants=wide.constants | {"A": halves})
    wide.constants["A"][:] = halves
    x, index = make_input(rng, live=11, channels=19, batch=2, rows=2)
    for isa in ISAS:
        for got, wanted in zip(run(narrow, x, index, isa), run(wide, x, index, isa), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=isa)
        first = run(narrow, x, index, ISAS[0])[1]
        np.testing.assert_array_equal(run(narrow, x, index, isa)[1], first, err_msg=isa)


@pytest.mark.parametrize("outputs", [1, 15, 33, 80, 130])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("threads", [1, 3])
def test_weights_of_16_bits_are_those_of_32(outputs, kernel, threads):
    rng = np.random.default_rng(outputs)
    for winners in {1, (outputs + 3) // 4, (outputs + 1) // 2, outputs}:
        for live in (19, 11):
            wide = make_layer(rng, channels=19, outputs=outputs, kernel=kernel, winners=winners)
            halves = wide.constants["W"].astype(np.float16)
            halves.flat[:3] = 0.0, 6e-8, -65504.0  # zero, the smallest and the largest
            narrow = wide.changed(constants=wide.constants | {"W": halves})
            wide.constants["W"][:] = halves
            x, index = make_input(rng, live=live, channels=19, size=(9, 7))
            y, j = reference.fbs_conv(wide, x, index)
            for isa in ISAS:
                got_y, got_j = run(narrow, x, index, isa, threads)
                np.testing.assert_array_equal(got_j, j, err_msg=isa)
                scale = max(1.0, float(np.abs(y).max(initial=0)))
                np.testing.assert_allclose(got_y, y, rtol=0, atol=TOLERANCE * scale, err_msg=isa)


@pytest.mark.parametrize("outputs", [1, 15, 33, 80, 130])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("threads", [1, 3])
def test_weights_of_8_bits_are_those_of_32(outputs, kernel, threads):
    rng = np.random.default_rng(outputs)
    for winners, left_out in [(1, False), ((outputs + 3) // 4, True), ((outputs + 1) // 2, False), (outputs, True)]:
        for live, names in [(19, "WA"), (11, "WA"), (11, "W"), (11, "A")]:
            layer = make_layer(
                rng, channels=19, outputs=outputs, kernel=kernel, winners=winners, left_out=left_out, post_shift=True
            )
            narrow, wide = reference.in_bytes(layer, *names)
            x, index = make_input(rng, live=live, channels=19, size=(9, 7))
            y, j = reference.fbs_conv(wide, x, index)
            for isa in ISAS:
                got_y, got_j = run(narrow, x, index, isa, threads)
                np.testing.assert_array_equal(got_j, j, err_msg=isa)
                scale = max(1.0, float(np.abs(y).max(initial=0)))
                np.testing.assert_allclose(got_y, y, rtol=0, atol=TOLERANCE * scale, err_msg=isa)


@pytest.mark.parametrize("outputs", [1, 33, 130])
def test_predictors_of_8_bits_choose_the_same_winners_everywhere(outputs):
    rng = np.random.default_rng(outputs)
    layer = make_layer(rng, channels=19, outputs=outputs, winners=(outputs + 1) // 2, normalize=1)
    narrow, _ = reference.in_bytes(layer)
    narrow.constants["A"].flat[:3] = 0, -128, 127
    x, index = make_input(rng, live=11, channels=19, batch=2)
    first = run(narrow, x, index, ISAS[0])[1]
    for isa in ISAS:
        np.testing.assert_array_equal(run(narrow, x, index, isa)[1], first, err_msg=isa)


CASES = {
    "no padding": {"pads": (0, 0, 0, 0)},
    "padding at one corner": {"pads": (0, 0, 1, 2), "strides": (2, 2)},
    "padding beyond the kernel": {"pads": (4, 0, 5, 3)},
    "stride 2 down only": {"strides": (2, 1)},
    "stride 3": {"strides": (3, 3)},
    "stride beyond the kernel": {"strides": (4, 5)},
    "dilated": {"dilations": (2, 2), "pads": (2, 2, 2, 2)},
    "dilated across only": {"dilations": (1, 3), "pads": (1, 3, 1, 3)},
    "dilated and strided": {"dilations": (3, 2), "strides": (2, 2), "pads": (2, 0, 1, 3)},
    "no activation": {"lower": -FLOAT_MAX},
    "relu6": {"upper": 6.0},
    "outputs all equal": {"lower": 2.5, "upper": 2.5},
    "identity on the saliency": {"saliency_slope": 1.0, "lower": -FLOAT_MAX},
    "leaky saliency": {"saliency_slope": 0.1, "lower": -FLOAT_MAX},
    "normalized": {"normalize": 1},
    "blocks": {"winner_block": 4},
    "shift outside the product": {"post_shift": True, "lower": -FLOAT_MAX},
    "planes without their constants": {"left_out": True, "lower": -FLOAT_MAX},
    "planes without their constants, both shifts": {"left_out": True, "post_shift": True, "normalize": 1},
    "everything": {"post_shift": True, "normalize": 1, "saliency_slope": 0.1, "strides": (2, 1), "upper": 1.0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("winners", [1, 10, 21])
def test_attributes(case, winners):
    rng = np.random.default_rng(5)
    layer = make_layer(rng, channels=11, outputs=21, winners=winners, **CASES[case])
    for live in (5, 11):
        x, index = make_input(rng, live=live, channels=11, size=(9, 10))
        assert_right(layer, x, index)


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("rows", [1, None])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches(batch, rows, threads):
    rng = np.random.default_rng(batch)
    layer = make_layer(rng, channels=12, outputs=18, winners=7)
    x, index = make_input(rng, live=6, channels=12, batch=batch, rows=rows)
    assert_right(layer, x, index, threads)


@pytest.mark.parametrize("winners", [16, 24, 32, 40, 64])
@pytest.mark.parametrize("threads", [1, 3])
def test_winners_that_lie_together(winners, threads):
    # All winners first, in the middle, and in two places: whole vectors are read where they are stored.
    rng = np.random.default_rng(winners)
    for first in (0, 16, (0, 48)):
        layer = make_layer(rng, channels=20, outputs=96, winners=winners)
        starts = first if isinstance(first, tuple) else (first,)
        for start in starts:
            layer.constants["R"][start : start + winners // len(starts)] += 1000
        x, index = make_input(rng, live=11, channels=20, size=(14, 15))
        assert_right(layer, x, index, threads)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (14, 15)])
@pytest.mark.parametrize("way", ["packed", "winograd", "all"])
def test_every_way_is_right(size, way):
    rng = np.random.default_rng(size[0])
    layer = make_layer(rng, channels=20, outputs=50, winners=19)
    x, index = make_input(rng, live=11, channels=20, size=size)
    y, j = reference.fbs_conv(layer, x, index)
    for isa in ISAS:
        session = reference.open_session(reference.fbs_model(layer), isa, way=way)
        got_y, got_j = session.run(None, {"X": x, "I": index})
        np.testing.assert_array_equal(got_j, j, err_msg=isa)
        np.testing.assert_allclose(got_y, y, rtol=0, atol=TOLERANCE * np.abs(y).max(), err_msg=isa)


@pytest.mark.parametrize("winners", [50, 19])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 3, 1)])
def test_minimal_filtering_is_right_and_the_same_on_any_number_of_threads(winners, pads):
    rng = np.random.default_rng(winners)
    layer = make_layer(rng, channels=20, outputs=50, winners=winners, pads=pads)
    for live in (11, 20):
        x, index = make_input(rng, live=live, channels=20, size=(27, 30))
        y, j = reference.fbs_conv(layer, x, index)
        for isa in ISAS:
            results = []
            for threads in (1, 2, 4):
                session = reference.open_session(reference.fbs_model(layer), isa, threads=threads, way="winograd")
                results.append(session.run(None, {"X": x, "I": index}))
            for got_y, got_j in results:
                np.testing.assert_array_equal(got_j, j, err_msg=isa)
                np.testing.assert_array_equal(got_y, results[0][0], err_msg=isa)
            np.testing.assert_allclose(results[0][0], y, rtol=0, atol=TOLERANCE * np.abs(y).max(), err_msg=isa)


@pytest.mark.parametrize("size", [(14, 14), (28, 30)])
def test_minimal_filtering_makes_many_weights_a_few_at_a_time(size):
    """Patches are kept meanwhile, or made again for the next weights: as plain sums would give, to rounding."""
    rng = np.random.default_rng(0)
    layer = make_layer(rng, channels=512, outputs=512, winners=256)
    x, index = make_input(rng, live=256, channels=512, size=size)
    model = reference.fbs_model(layer)
    plain, _ = reference.open_session(model, way="packed").run(None, {"X": x, "I": index})
    results = []
    for threads in (1, 3, 4):
        session = reference.open_session(model, threads=threads, way="winograd")
        results.append(session.run(None, {"X": x, "I": index})[0])
        np.testing.assert_array_equal(results[-1], results[0])
    np.testing.assert_allclose(results[0], plain, rtol=0, atol=TOLERANCE * np.abs(plain).max())


def test_minimal_filtering_is_taken_where_it_is_cheaper():
    """And only where the kernel is 3x3 with steps of 1."""
    rng = np.random.default_rng(0)
    ways = {}
    for name, size, changes in [
        ("plain", (16, 16), {}),
        ("tiny", (2, 2), {}),
        ("strided", (16, 16), {"strides": (1, 2)}),
        ("dilated", (16, 16), {"dilations": (2, 1), "pads": (2, 1, 2, 1)}),
        ("larger", (16, 16), {"kernel": (5, 3), "pads": (2, 1, 2, 1)}),
    ]:
        layer = make_layer(rng, channels=32, outputs=64, winners=32, **changes)
        x, index = make_input(rng, live=16, channels=32, size=size)
        model = onnx.load_from_string(reference.fbs_model(layer))
        model.graph.node[0].name = f"filtered {name}"
        session = reference.open_session(model.SerializeToString())
        session.run(None, {"X": x, "I": index})
        ways[name] = way_of(f"filtered {name}")
    assert [name for name, way in ways.items() if way == "winograd"] == ["plain"]
    assert set(ways.values()) == {"winograd", "packed", "all"}


def test_empty_batch():
    layer = make_layer(np.random.default_rng(0), channels=4, outputs=6, winners=3)
    y, j = run(layer, np.zeros((0, 5, 5, 4), np.float32), np.arange(4)[None], "")
    assert y.shape == (0, 5, 5, 3)
    assert j.shape == (0, 3)


def test_samples_do_not_depend_on_their_batch():
    rng = np.random.default_rng(3)
    layer = make_layer(rng, channels=16, outputs=32, winners=16)
    x, index = make_input(rng, live=8, channels=16, batch=4)
    together, _ = run(layer, x, index, "")
    for n in range(4):
        alone, _ = run(layer, x[n : n + 1], index[n : n + 1], "")
        np.testing.assert_array_equal(alone[0], together[n])


@pytest.mark.parametrize("winners", [1, 3, 17, 32, 33])
def test_ties_go_to_the_lower_index(winners):
    rng = np.random.default_rng(winners)
    layer = make_layer(rng, channels=8, outputs=33, winners=winners)
    layer.constants["A"][:] = np.repeat(layer.constants["A"][:, :11], 3, axis=1)  # groups of three equal channels
    layer.constants["R"][:] = np.repeat(layer.constants["R"][:11], 3)
    x, index = make_input(rng, live=5, channels=8)
    assert_right(layer, x, index)


@pytest.mark.parametrize("normalize", [0, 1])
def test_all_zero_input(normalize):
    rng = np.random.default_rng(1)
    layer = make_layer(rng, channels=8, outputs=20, winners=6, normalize=normalize)
    x, index = make_input(rng, live=4, channels=8)
    assert_right(layer, np.zeros_like(x), index)
    layer.constants["R"][:] = -1  # every saliency is cut to 0: all tie, the sum is 0, nothing comes out
    y, j = run(layer, np.zeros_like(x), index, "")
    assert_right(layer, np.zeros_like(x), index)
    np.testing.assert_array_equal(j, np.arange(6)[None])
    assert not y.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["input", "saliency", "all"])
@pytest.mark.parametrize("isa", ISAS)
def test_values_that_are_no_numbers_do_no_harm(value, where, isa):
    rng = np.random.default_rng(2)
    layer = make_layer(rng, channels=9, outputs=20, winners=7, saliency_slope=1.0)
    x, index = make_input(rng, live=6, channels=9)
    if where == "input":
        x[0, 2, 1, 3] = value
    elif where == "saliency":
        layer.constants["R"][4] = value
    else:
        x[:] = value
        for constant in layer.constants.values():
            constant[:] = value
    y, j = run(layer, x, index, isa)
    assert y.shape == (1, 6, 5, 7)
    assert (np.diff(j[0]) > 0).all()
    assert j.min() >= 0
    assert j.max() < 20
    if where == "saliency":  # infinity wins; not-a-number and minus infinity come last
        assert (4 in j[0]) == (value == np.inf)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [1, 15, 16, 17, 33, 100])
def test_unpack(isa, channels):
    rng = np.random.default_rng(channels)
    session = reference.open_session(reference.unpack_model(channels), isa)
    for live in {0, 1, channels // 2, channels}:
        for batch, rows in [(1, 1), (3, 3), (3, 1)]:
            x, index = make_input(rng, live=live, channels=channels, batch=batch, rows=rows, size=(3, 4))
            (y,) = session.run(None, {"X": x, "I": index})
            np.testing.assert_array_equal(y, reference.unpack(x, index, channels))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_to_nhwc(channels, threads):
    rng = np.random.default_rng(channels)
    session = reference.open_session(reference.to_nhwc_model(), "", threads)
    for batch, size in [(1, (1, 1)), (2, (63, 65)), (1, (150, 151)), (0, (3, 3)), (1, (0, 4))]:
        x = rng.normal(size=(batch, channels, *size)).astype(np.float32)
        np.testing.assert_array_equal(session.run(None, {"X": x})[0], x.transpose(0, 2, 3, 1))


def test_to_nhwc_equals_its_body_and_knows_its_shape():
    bare = reference.to_nhwc_model(("N", 3, 8, "W"))
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 5)).astype(np.float32)
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(stock.run(None, {"X": x})[0], x.transpose(0, 2, 3, 1))
    assert reference.open_session(bare).get_outputs()[0].shape == ["N", 8, "W", 3]
    with pytest.raises(Exception, match=r"ToNHWC: X has shape \[3, 4\]; it must be \[N, C, H, W\]"):
        reference.open_session(reference.to_nhwc_model((None, None))).run(None, {"X": np.zeros((3, 4), np.float32)})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("lower", [-FLOAT_MAX, 0.0])
@pytest.mark.parametrize("channels", [1, 5, 16, 33])
def test_unpack_add(isa, lower, channels):
    rng = np.random.default_rng(channels)
    session = reference.open_session(reference.unpack_add_model(channels, lower), isa, 2)
    for live, batch, rows in [(channels, 1, None), ((channels + 1) // 2, 3, None), (1, 2, 1)]:
        x, index = make_input(rng, live=live, channels=channels, batch=batch, rows=rows, size=(3, 4))
        z = rng.normal(size=(batch, 3, 4, channels)).astype(np.float32)
        z[0, 0, 0, 0] = np.nan
        (y,) = session.run(None, {"X": x, "I": index, "Z": z})
        np.testing.assert_array_equal(y, np.maximum(z + reference.unpack(x, index, channels), np.float32(lower)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 16, 33, 130])
def test_a_packed_summand_is_the_unpacked_one_to_the_bit(isa, means, channels):
    rng = np.random.default_rng(channels)
    dense = reference.open_session(reference.unpack_add_model(channels, 0.25, means=means), isa, 3)
    packed = reference.open_session(reference.unpack_add_model(channels, 0.25, means=means, packed=True), isa, 3)
    for live, other, batch, rows in [
        (channels, 1, 1, 1),
        ((channels + 1) // 2, channels // 2, 3, 1),
        (0, channels, 3, 3),
    ]:
        for size in [(3, 4), (40, 41)]:
            x, index = make_input(rng, live=live, channels=channels, batch=batch, size=size)
            z, places = make_input(rng, live=other, channels=channels, batch=batch, size=size, rows=rows)
            feeds = {"X": x, "I": index}
            expected = dense.run(None, feeds | {"Z": reference.unpack(z, places, channels)})
            found = packed.run(None, feeds | {"Z": z, "K": places})
            for one, another in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, another)


def sum_with_means(rng, channels, size, *, batch=1, lower=0.0, isa="", threads=1):
    """Y and U of an UnpackAdd that half of the channels go into."""
    x, index = make_input(rng, live=(channels + 1) // 2, channels=channels, batch=batch, size=size)
    z = rng.normal(size=(batch, *size, channels)).astype(np.float32)
    session = reference.open_session(reference.unpack_add_model(channels, lower, means=True), isa, threads)
    return session.run(None, {"X": x, "I": index, "Z": z})


@pytest.mark.parametrize("channels", [1, 4, 5, 16, 33, 130])
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (3, 4), (9, 9), (57, 61)])
def test_means_of_a_sum_are_the_same_bits_wherever_they_are_taken(channels, size):
    for lower in (0.0, -FLOAT_MAX):
        expected_y, expected_u = sum_with_means(np.random.default_rng(1), channels, size, batch=2, lower=lower)
        np.testing.assert_allclose(expected_u, np.abs(expected_y).mean(axis=(1, 2), dtype=np.float64), rtol=1e-5)
        for isa in ISAS:
            for threads in (1, 3):
                rng = np.random.default_rng(1)
                y, u = sum_with_means(rng, channels, size, batch=2, lower=lower, isa=isa, threads=threads)
                np.testing.assert_array_equal(y, expected_y)
                np.testing.assert_array_equal(u, expected_u)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [3, 16, 33, 130])
@pytest.mark.parametrize("shape", [{}, {"post_shift": True, "kernel": (1, 1)}])
def test_a_layer_that_is_given_means_is_the_one_that_takes_them_to_the_bit(isa, channels, shape):
    rng = np.random.default_rng(channels)
    layer = make_layer(rng, channels=channels, outputs=40, winners=17, **shape)
    for size, batch, threads in [((5, 4), 1, 1), ((31, 33), 2, 3)]:
        y, u = sum_with_means(rng, channels, size, batch=batch, isa=isa, threads=threads)
        feeds = {"X": y, "I": np.arange(channels)[None]}
        given = reference.open_session(reference.fbs_model(layer, means="U"), isa, threads).run(None, feeds | {"U": u})
        taken = reference.open_session(reference.fbs_model(layer), isa, threads).run(None, feeds)
        for one, other in zip(given, taken, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("isa", ISAS)
def test_given_means_count_what_planes_leave_out(isa):
    rng = np.random.default_rng(3)
    layer = make_layer(rng, channels=20, outputs=40, winners=17, left_out=True)
    for live, batch, size in [(20, 1, (5, 4)), (9, 3, (31, 33))]:
        x, index = make_input(rng, live=live, channels=20, batch=batch, size=size)
        u = np.abs(x + layer.constants["E"][index][:, None, None, :]).mean(axis=(1, 2), dtype=np.float64)
        session = reference.open_session(reference.fbs_model(layer, means="U"), isa, 2)
        y, j = session.run(None, {"X": x, "I": index, "U": u.astype(np.float32)})
        expected_y, expected_j = reference.fbs_conv(layer, x, index)
        np.testing.assert_array_equal(j, expected_j)
        np.testing.assert_allclose(y, expected_y, rtol=0, atol=TOLERANCE * np.abs(expected_y).max())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("winners", [1, 15, 16, 33, 40])
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (31, 33)])
@pytest.mark.parametrize(
    "shape", [{}, {"kernel": (1, 1), "lower": -FLOAT_MAX, "post_shift": True}, {"strides": (2, 2)}]
)
def test_a_layer_takes_the_means_of_what_it_writes(isa, winners, size, shape):
    rng = np.random.default_rng(winners)
    layer = make_layer(rng, channels=70, outputs=40, winners=winners, **shape)
    for live, batch in [(70, 1), (33, 3)]:
        x, index = make_input(rng, live=live, channels=70, batch=batch, size=size)
        feeds = {"X": x, "I": index}
        first = None
        for threads in (1, 2, 4):
            y, j, m = reference.open_session(reference.fbs_model(layer, means="M"), isa, threads).run(None, feeds)
            for one, other in zip((y, j), run(layer, x, index, isa, threads), strict=True):
                np.testing.assert_array_equal(one, other)
            np.testing.assert_allclose(m, np.abs(y).mean(axis=(1, 2), dtype=np.float64), rtol=1e-5, atol=1e-12)
            first = m if first is None else first
            np.testing.assert_array_equal(m, first)


def test_means_of_no_pixels_are_no_numbers():
    y, u = sum_with_means(np.random.default_rng(0), 7, (0, 3))
    assert y.shape == (1, 0, 3, 7)
    assert np.isnan(u).all()


def test_shapes_may_change_between_runs():
    rng = np.random.default_rng(9)
    layer = make_layer(rng, channels=8, outputs=12, winners=5)
    session = reference.open_session(reference.fbs_model(layer))
    for size, live, batch in [((6, 5), 4, 1), ((1, 1), 8, 2), ((12, 3), 1, 3), ((6, 5), 4, 1)]:
        x, index = make_input(rng, live=live, channels=8, batch=batch, size=size)
        y, j = session.run(None, {"X": x, "I": index})
        expected_y, expected_j = reference.fbs_conv(layer, x, index)
        np.testing.assert_array_equal(j, expected_j)
        np.testing.assert_allclose(y, expected_y, atol=TOLERANCE * np.abs(expected_y).max())


@pytest.mark.parametrize(
    ("shape", "expected_y", "expected_j"),
    [
        ((2, 9, 8, 4), [2, 5, 4, 5], [2, 5]),
        (("batch", 9, 8, 4), ["batch", 5, 4, 5], ["batch", 5]),
        (("batch", "H", 8, "Cx"), ["batch", "conv(H,3,2,1,2)", 4, 5], ["batch", 5]),
        ((None, 9, 8, 4), [None] * 4, [None] * 2),
    ],
)
def test_shapes_are_known_before_the_first_run(shape, expected_y, expected_j):
    layer = make_layer(np.random.default_rng(0), channels=8, outputs=12, winners=5, strides=(2, 2))
    y, j = reference.open_session(reference.fbs_model(layer, shape=shape)).get_outputs()
    assert y.shape == expected_y
    assert j.shape == expected_j
