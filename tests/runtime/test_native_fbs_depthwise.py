"""FBSConvDepthwise on every instruction set: against plain numpy, its body and its two nodes, and what it refuses."""

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest
from native_reference import FLOAT_MAX, Depthwise, make_depthwise, make_input, make_layer
from onnx import TensorProto

from exporters.functions import attach_functions

TOLERANCE = 2e-5  # as test_native_ops

ISAS = reference.isa_names()

# From 512 pixels between the two convolutions on, rows come in bands: whatever lies between is large enough or not.
SMALL, LARGE = (9, 10), (48, 50)
# On every instruction set more than one band, and bands of a single row of the output.
BANDS = {"several": (70, 60), "of one row": (5, 1100)}


def run(layer, behind, x, index, isa, threads=1):
    session = reference.open_session(reference.fbs_model(layer, behind=behind), isa, threads)
    return session.run(None, {"X": x, "I": index})


def assert_near(got, wanted, isa):
    """The same winners to the bit, and outputs as near as another order of the sums allows."""
    np.testing.assert_array_equal(got[1], wanted[1], err_msg=isa)
    assert got[0].shape == wanted[0].shape, isa
    scale = max(1.0, float(np.abs(wanted[0]).max(initial=0)))
    np.testing.assert_allclose(got[0], wanted[0], rtol=0, atol=TOLERANCE * scale, err_msg=isa)


def assert_right(layer, behind, x, index, threads=1):
    wanted = reference.fused(layer, behind, x, index)
    for isa in ISAS:
        assert_near(run(layer, behind, x, index, isa, threads), wanted, isa)


@pytest.mark.parametrize("channels", [1, 16, 33])
@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 33, 40])
@pytest.mark.parametrize(("kernel", "filters"), [((1, 1), (5, 5)), ((3, 3), (3, 3))])
def test_ragged_channels(channels, outputs, kernel, filters):
    rng = np.random.default_rng(channels * 100 + outputs)
    behind = make_depthwise(rng, outputs, kernel=filters)
    for winners in {1, (outputs + 1) // 2, outputs}:
        layer = make_layer(rng, channels=channels, outputs=outputs, kernel=kernel, winners=winners)
        for live, size in [(channels, (5, 7)), ((channels + 1) // 2, (5, 7)), ((channels + 1) // 2, (22, 24))]:
            x, index = make_input(rng, live=live, channels=channels, size=size)
            assert_right(layer, behind, x, index)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (7, 7), (16, 31), (16, 32), (45, 46)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("filters", [(3, 3), (5, 5), (1, 3)])
def test_plane_sizes(size, kernel, filters):
    rng = np.random.default_rng(size[0] * 20 + size[1])
    for strides in [(1, 1), (2, 2)]:
        for strides_behind in [(1, 1), (2, 2)]:
            layer = make_layer(rng, channels=6, outputs=20, kernel=kernel, winners=9, strides=strides)
            behind = make_depthwise(rng, 20, kernel=filters, strides=strides_behind)
            x, index = make_input(rng, live=4, channels=6, size=size)
            assert_right(layer, behind, x, index)


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("filters", [(3, 3), (5, 5)])
@pytest.mark.parametrize("threads", [1, 3])
def test_bands(bands, filters, threads):
    rng = np.random.default_rng(filters[0])
    layer = make_layer(rng, channels=5, outputs=24, kernel=(1, 1), winners=18)
    for settings in ({}, {"strides": (2, 1)}, {"dilations": (3, 1), "pads": (6, 2, 5, 2)}, {"strides": (5, 3)}):
        behind = make_depthwise(rng, 24, kernel=filters, **settings)
        x, index = make_input(rng, live=3, channels=5, size=BANDS[bands])
        assert_right(layer, behind, x, index, threads)


CASES = {
    "plain": ({}, {}),
    "pointwise": ({"kernel": (1, 1)}, {}),
    "no padding": ({"pads": (0, 0, 0, 0)}, {"pads": (0, 0, 0, 0)}),
    "padding at one corner": ({"pads": (0, 0, 1, 2), "strides": (2, 2)}, {"pads": (2, 0, 0, 1)}),
    "padding beyond the kernels": ({"pads": (4, 0, 5, 3)}, {"pads": (7, 4, 3, 5)}),
    "filters that see only padding": ({}, {"pads": (9, 0, 8, 0), "dilations": (2, 1), "strides": (1, 2)}),
    "both strided": ({"strides": (2, 1)}, {"strides": (1, 2)}),
    "stride beyond the filters": ({}, {"strides": (4, 5)}),
    "dilated": ({"dilations": (2, 1), "pads": (2, 1, 2, 1)}, {"dilations": (1, 3), "pads": (1, 3, 1, 3)}),
    "dilated and strided": ({}, {"dilations": (3, 2), "strides": (2, 3), "pads": (2, 0, 1, 3)}),
    "5x5, down only": ({"kernel": (1, 1)}, {"kernel": (5, 1)}),
    "no activation": ({"lower": -FLOAT_MAX}, {"lower": -FLOAT_MAX, "upper": FLOAT_MAX}),
    "relu": ({}, {"upper": FLOAT_MAX}),
    "relu6 twice": ({"upper": 6.0, "kernel": (1, 1)}, {}),
    "leaky saliency": ({"saliency_slope": 0.1, "lower": -FLOAT_MAX}, {}),
    "normalized": ({"normalize": 1}, {}),
    "blocks": ({"winner_block": 4}, {}),
    "blocks of whole vectors": ({"winner_block": 16}, {}),
    "shift outside the product": ({"post_shift": True, "lower": -FLOAT_MAX}, {}),
    "planes without their constants": ({"left_out": True, "lower": -FLOAT_MAX}, {}),
    "both shifts": ({"left_out": True, "post_shift": True, "normalize": 1}, {"kernel": (5, 5)}),
    "everything": (
        {"post_shift": True, "left_out": True, "winner_block": 2, "saliency_slope": 0.1, "strides": (2, 1)},
        {"kernel": (5, 3), "strides": (1, 2), "dilations": (1, 2), "pads": (2, 1, 0, 3), "lower": -1.0, "upper": 2.0},
    ),
}


def made(rng, case, **settings):
    of_layer, of_behind = CASES[case]
    layer = make_layer(rng, channels=11, **{"outputs": 21} | settings | of_layer)
    return layer, make_depthwise(rng, len(layer.constants["B"]), **of_behind)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("winners", [1, 10, 21])
def test_attributes(case, winners):
    rng = np.random.default_rng(5)
    layer, behind = made(rng, case, winners=winners)
    for live, size in [(5, SMALL), (11, SMALL), (5, LARGE)]:
        x, index = make_input(rng, live=live, channels=11, size=size)
        assert_right(layer, behind, x, index)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rows", [1, None])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_batches(batch, rows, threads):
    rng = np.random.default_rng(batch)
    layer = make_layer(rng, channels=12, outputs=40, winners=23)
    behind = make_depthwise(rng, 40)
    for live, size in [(7, SMALL), (12, SMALL), (7, LARGE)]:
        x, index = make_input(rng, live=live, channels=12, batch=batch, rows=rows, size=size)
        assert_right(layer, behind, x, index, threads)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("outputs", [1, 33, 80])
@pytest.mark.parametrize("threads", [1, 3])
def test_weights_and_predictors_of_16_bits_are_those_of_32(kernel, outputs, threads):
    rng = np.random.default_rng(outputs)
    behind = make_depthwise(rng, outputs)
    for winners in {1, (outputs + 1) // 2, outputs}:
        for live, size in [(19, SMALL), (11, SMALL), (11, (23, 24))]:
            narrow = make_layer(rng, channels=19, outputs=outputs, kernel=kernel, winners=winners)
            for name in ("W", "A"):
                narrow.constants[name] = narrow.constants[name].astype(np.float16)
            wide = narrow.changed(constants={name: v.astype(np.float32) for name, v in narrow.constants.items()})
            x, index = make_input(rng, live=live, channels=19, size=size)
            wanted = reference.fused(wide, behind, x, index)
            for isa in ISAS:
                assert_near(run(narrow, behind, x, index, isa, threads), wanted, isa)


@pytest.mark.parametrize("outputs", [1, 33, 80])
@pytest.mark.parametrize("threads", [1, 3])
def test_weights_and_predictors_of_8_bits_are_those_of_32(outputs, threads):
    rng = np.random.default_rng(outputs)
    behind = make_depthwise(rng, outputs)
    for winners in {1, (outputs + 1) // 2, outputs}:
        for live, size in [(19, SMALL), (11, (23, 24))]:
            layer = make_layer(rng, channels=19, outputs=outputs, kernel=(1, 1), winners=winners)
            narrow, wide = reference.in_bytes(layer)
            x, index = make_input(rng, live=live, channels=19, size=size)
            wanted = reference.fused(wide, behind, x, index)
            for isa in ISAS:
                assert_near(run(narrow, behind, x, index, isa, threads), wanted, isa)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_native_equals_function_body(case, batch):
    rng = np.random.default_rng(batch)
    layer, behind = made(rng, case, winners=10)
    x, index = make_input(rng, live=6, channels=11, batch=batch, size=(23, 24))
    feeds = {"X": x, "I": index}
    bare = reference.fbs_model(layer, behind=behind, shape=(batch, "H", "W", "Cx"))
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    wanted = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"]).run(None, feeds)
    for isa in ISAS:
        got = reference.open_session(complete, isa).run(None, feeds)
        assert_near(got, wanted, isa)
        # Where both are there the kernel wins: the same bits as without the body.
        np.testing.assert_array_equal(got[0], reference.open_session(bare, isa).run(None, feeds)[0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_one_node_equals_two(case, size):
    rng = np.random.default_rng(6)
    layer, behind = made(rng, case, winners=10)
    x, index = make_input(rng, live=6, channels=11, batch=2, size=size)
    for isa in ISAS:
        wanted = reference.open_session(reference.pair_model(layer, behind), isa).run(None, {"X": x, "I": index})
        assert_near(run(layer, behind, x, index, isa), wanted, isa)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_means_are_those_of_the_planes_with_what_they_leave_out(case, size):
    rng = np.random.default_rng(7)
    layer, behind = made(rng, case, winners=10)
    x, index = make_input(rng, live=6, channels=11, batch=2, size=size)
    rest = np.clip(behind.bias, behind.lower, behind.upper)
    for isa in ISAS:
        session = reference.open_session(reference.fbs_model(layer, behind=behind, means="M"), isa, 2)
        y, j, m = session.run(None, {"X": x, "I": index})
        for one, other in zip((y, j), run(layer, behind, x, index, isa, 2), strict=True):
            np.testing.assert_array_equal(one, other)
        planes = y.astype(np.float64) + rest[j][:, None, None, :]
        np.testing.assert_allclose(m, np.abs(planes).mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)


# Large enough that the work is split, by outputs, by rows and by both.
DIVIDED = {
    "small planes": {"channels": 48, "outputs": 96, "winners": 41, "size": (20, 20), "live": 30},
    "small planes of many winners": {"channels": 32, "outputs": 512, "winners": 300, "size": (15, 15), "live": 32},
    "large planes": {"channels": 16, "outputs": 72, "winners": 57, "size": (40, 41), "live": 11},
    "few winners": {"channels": 16, "outputs": 40, "winners": 3, "size": (61, 60), "live": 16},
    "many winners": {"channels": 24, "outputs": 160, "winners": 150, "size": (33, 34), "live": 24, "kernel": (1, 1)},
    "all win": {"channels": 12, "outputs": 33, "winners": 33, "size": (30, 30), "live": 12},
    "wide": {"channels": 4, "outputs": 20, "winners": 18, "size": (7, 1100), "live": 4, "kernel": (1, 1)},
    "strided": {"channels": 8, "outputs": 40, "winners": 20, "size": (96, 97), "live": 6, "strides": (2, 2)},
}


def divided(name, batch=1, **behind):
    settings = dict(DIVIDED[name])
    size, live = settings.pop("size"), settings.pop("live")
    rng = np.random.default_rng(len(name))
    layer = make_layer(rng, **settings)
    x, index = make_input(rng, live=live, channels=settings["channels"], size=size, batch=batch)
    behind = make_depthwise(rng, settings["outputs"], **behind)
    return reference.fbs_model(layer, behind=behind, means="M"), {"X": x, "I": index}


@pytest.mark.parametrize("name", DIVIDED)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("behind", [{}, {"kernel": (5, 5), "strides": (2, 2)}], ids=["3x3", "5x5"])
def test_the_number_of_threads_changes_no_bit(name, isa, behind):
    model, feeds = divided(name, **behind)
    wanted = reference.open_session(model, isa, 1).run(None, feeds)
    for threads in (2, 3, 4, 7):
        for got, want in zip(reference.open_session(model, isa, threads).run(None, feeds), wanted, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=f"{threads} threads")


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("size", [(4, 4), (5, 5), (23, 24)])
@pytest.mark.parametrize("isa", ISAS)
def test_the_number_of_threads_changes_no_bit_of_winners_that_lie_together(lanes, size, isa):
    rng = np.random.default_rng(lanes)
    for vectors in (2, 3, 6, 8):
        outputs = 3 * lanes * ((vectors + 1) // 2)
        layer = make_layer(rng, channels=240, outputs=outputs, winners=vectors * lanes)
        reference.let_win_together(rng, layer, lanes)
        x, index = make_input(rng, live=201, channels=240, size=size)
        behind = make_depthwise(rng, outputs, lower=-FLOAT_MAX, upper=FLOAT_MAX)
        wanted = run(layer, behind, x, index, isa)
        for threads in (2, 3, 4):
            for got, want in zip(run(layer, behind, x, index, isa, threads), wanted, strict=True):
                np.testing.assert_array_equal(got, want, err_msg=f"{vectors} vectors, {threads} threads")


@pytest.mark.parametrize("name", ["small planes", "large planes"])
def test_samples_do_not_depend_on_their_batch(name):
    model, feeds = divided(name, batch=3)
    for isa in ISAS:
        for threads in (1, 2, 4):
            session = reference.open_session(model, isa, threads)
            together = session.run(None, feeds)
            for n in range(3):
                alone = session.run(None, {key: value[n : n + 1] for key, value in feeds.items()})
                for one, other in zip(alone, together, strict=True):
                    np.testing.assert_array_equal(one[0], other[n], err_msg=isa)


@pytest.mark.parametrize("threads", [1, 3])
def test_shapes_may_change_between_runs(threads):
    rng = np.random.default_rng(9)
    layer = make_layer(rng, channels=8, outputs=40, winners=25)
    behind = make_depthwise(rng, 40)
    for isa in ISAS:
        session = reference.open_session(reference.fbs_model(layer, behind=behind), isa, threads)
        for size, batch in [(SMALL, 1), (LARGE, 1), (LARGE, 3), ((47, 50), 1), ((47, 49), 2), ((1, 1), 2), (LARGE, 1)]:
            x, index = make_input(rng, live=8 // batch, channels=8, batch=batch, size=size)
            assert_near(session.run(None, {"X": x, "I": index}), reference.fused(layer, behind, x, index), isa)


@pytest.mark.parametrize("name", DIVIDED)
def test_a_steady_state_allocates_nothing(name):
    model, feeds = divided(name)
    session = reference.open_session(model, threads=2)
    assert reference.allocated_after_the_first(session, feeds) == 0


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("way", ["packed", "all"])
@pytest.mark.parametrize("winners", [19, 50])
def test_there_is_no_other_way(size, way, winners):
    rng = np.random.default_rng(size[0])
    layer = make_layer(rng, channels=20, outputs=50, winners=winners)
    behind = make_depthwise(rng, 50)
    for live in (11, 20):
        x, index = make_input(rng, live=live, channels=20, size=size)
        for isa in ISAS:
            session = reference.open_session(reference.fbs_model(layer, behind=behind), isa, way=way)
            wanted = run(layer, behind, x, index, isa)
            for got, want in zip(session.run(None, {"X": x, "I": index}), wanted, strict=True):
                np.testing.assert_array_equal(got, want, err_msg=isa)


def test_absent_attributes_mean_none():
    rng = np.random.default_rng(7)
    layer = make_layer(rng, channels=4, outputs=6, winners=3)
    behind = make_depthwise(rng, 6, pads=(0, 0, 0, 0), lower=-FLOAT_MAX, upper=FLOAT_MAX)
    absent = {f"depthwise_{name}": None for name in behind.attributes()}
    x, index = make_input(rng, live=3, channels=4)
    got = reference.open_session(reference.fbs_model(layer, behind=behind, **absent)).run(None, {"X": x, "I": index})
    assert_near(got, reference.fused(layer, behind, x, index), "")


def test_empty_batch():
    rng = np.random.default_rng(0)
    layer = make_layer(rng, channels=4, outputs=6, winners=3)
    for size, planes in [((5, 5), (3, 3)), (LARGE, (24, 25))]:
        empty = np.zeros((0, *size, 4), np.float32)
        y, j = run(layer, make_depthwise(rng, 6, strides=(2, 2)), empty, np.arange(4)[None], "", 3)
        assert y.shape == (0, *planes, 3)
        assert j.shape == (0, 3)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("isa", ISAS)
def test_values_that_are_no_numbers_stay_with_their_channel(size, isa):
    rng = np.random.default_rng(3)
    layer = make_layer(rng, channels=9, outputs=20, winners=18)
    for name, at in [("W", (4, 2, 1, 1)), ("B", 4), ("D", 4), ("V", (4, 0, 0, 2)), ("S", 4)]:
        constants = {"D": np.zeros(20, np.float32)} | layer.constants
        behind = make_depthwise(rng, 20)
        changed = {"V": behind.weight, "S": behind.bias} | constants
        changed[name] = changed[name].copy()
        changed[name][at] = np.nan
        behind = Depthwise(changed.pop("V"), changed.pop("S"))
        x, index = make_input(rng, live=9, channels=9, size=size)
        y, j = run(layer.changed(constants=changed), behind, x, index, isa, 3)
        wanted = np.zeros(y.shape, bool)
        # The filter's top right corner sees padding in the first row and the last column.
        wanted[:, 1 if name == "V" else 0 :, : -1 if name == "V" else None, j[0] == 4] = True
        np.testing.assert_array_equal(np.isnan(y), wanted, err_msg=name)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("isa", ISAS)
def test_values_that_are_no_numbers_stay_with_their_pixels(size, isa):
    rng = np.random.default_rng(4)
    layer = make_layer(rng, channels=9, outputs=20, kernel=(1, 1), winners=18, upper=float("inf"))
    weight, a, r = (layer.constants[name] for name in "WAR")
    x, index = make_input(rng, live=9, channels=9, size=size)
    behind = make_depthwise(rng, 20)
    # Infinite planes at some pixels of one output that wins for sure, through an input that the others do not read.
    weight[:, 2], a[2], r[4], weight[4, 2], behind.weight[4] = 0.0, 0.0, 1000.0, 1e30, 0.0
    infinite = rng.random(size) < 0.01
    infinite[0, 0] = infinite[-1, 3] = True
    x[0, infinite, 2] = 1e30
    y, j = run(layer, behind, x, index, isa, 3)
    wanted = np.zeros(y.shape, bool)
    seen = reference.taps(infinite[None, ..., None], (3, 3), behind)
    wanted[..., j[0] == 4] = sum(values for _, _, values in seen) > 0
    np.testing.assert_array_equal(np.isnan(y), wanted)


def test_values_that_are_no_numbers_stay_with_their_sample():
    rng = np.random.default_rng(5)
    layer = make_layer(rng, channels=9, outputs=20, winners=7)
    behind = make_depthwise(rng, 20)
    for size in (SMALL, LARGE):
        x, index = make_input(rng, live=6, channels=9, batch=3, size=size)
        wanted = reference.fused(layer, behind, x, index)
        x[1, 3, 4, 2] = np.nan
        for isa in ISAS:
            y, j = run(layer, behind, x, index, isa, 2)
            assert np.isnan(y[1]).all()
            np.testing.assert_array_equal(j[1], np.arange(7))
            assert_near((y[::2], j[::2]), (wanted[0][::2], wanted[1][::2]), isa)


@pytest.mark.parametrize(
    ("shape", "expected_y", "expected_j"),
    [
        ((2, 9, 8, 4), [2, 2, 2, 5], [2, 5]),
        (("batch", 9, 8, 4), ["batch", 2, 2, 5], ["batch", 5]),
        (("batch", "H", 8, "Cx"), ["batch", "conv(conv(H,3,2,1,2),5,2,1,3)", 2, 5], ["batch", 5]),
        ((None, 9, 8, 4), [None] * 4, [None] * 2),
    ],
)
def test_shapes_are_known_before_the_first_run(shape, expected_y, expected_j):
    rng = np.random.default_rng(0)
    layer = make_layer(rng, channels=8, outputs=12, winners=5, strides=(2, 2))
    behind = make_depthwise(rng, 12, kernel=(5, 3), strides=(2, 2), pads=(1, 1, 2, 1))
    y, j = reference.open_session(reference.fbs_model(layer, behind=behind, shape=shape)).get_outputs()
    assert y.shape == expected_y
    assert j.shape == expected_j


def small(**changes):
    """A layer with both optional shifts and the convolution behind it, some of its constants changed."""
    rng = np.random.default_rng(0)
    layer = make_layer(rng, channels=4, outputs=6, winners=3, post_shift=True, left_out=True)
    behind = make_depthwise(rng, 6, pads=(0, 0, 0, 0))
    constants = {"V": behind.weight, "S": behind.bias} | layer.constants | changes
    filters = Depthwise(constants.pop("V"), constants.pop("S"), pads=behind.pads)
    return layer.changed(constants=constants), filters


def zeros(*shape):
    return np.zeros(shape, np.float32)


BEHIND = "the depthwise convolution, its W being V and its B being S: "
LOADING = {
    "other channels": ({"V": zeros(5, 1, 3, 3)}, {}, rf"{BEHIND}W has shape \[5, 1, 3, 3\]; .* C = channels = 6"),
    "two inputs a filter": ({"V": zeros(6, 2, 3, 3)}, {}, rf"{BEHIND}W has shape \[6, 2, 3, 3\]; it must be \[C, 1"),
    "filters of rank 3": ({"V": zeros(6, 3, 3)}, {}, rf"{BEHIND}W has shape \[6, 3, 3\]; it must be \[C, 1, kh, kw\]"),
    "filters without taps": ({"V": zeros(6, 1, 0, 3)}, {}, f"{BEHIND}W has shape .* and sizes of 1 or more"),
    "short bias": ({"S": zeros(5)}, {}, rf"{BEHIND}B has shape \[5\]; with W of shape \[6, 1, 3, 3\] it must be \[6\]"),
    "bias of rank 2": ({"S": zeros(6, 1)}, {}, rf"{BEHIND}B has shape \[6, 1\]"),
    "one stride": ({}, {"depthwise_strides": [1]}, rf"{BEHIND}strides is \[1\]; it needs 2 values"),
    "stride 0": ({}, {"depthwise_strides": [0, 1]}, rf"{BEHIND}strides is \[0, 1\]; it needs 2 values from 1"),
    "pad negative": ({}, {"depthwise_pads": [0, 0, -1, 0]}, rf"{BEHIND}pads is \[0, 0, -1, 0\]; it needs 4 values"),
    "pad huge": ({}, {"depthwise_pads": [0, 2**40, 0, 0]}, f"{BEHIND}pads is .* from 0 to 4096"),
    "dilation 0": ({}, {"depthwise_dilations": [1, 0]}, rf"{BEHIND}dilations is \[1, 0\]"),
    "clamp upside down": ({}, {"depthwise_lower": 7.0}, f"{BEHIND}.* lower must not be above upper"),
    "clamp not a number": ({}, {"depthwise_upper": float("nan")}, f"{BEHIND}.* lower must not be above upper"),
    "winners absent": ({}, {"winners": None}, "attribute winners is missing"),
    "winners above K": ({}, {"winners": 7}, r"winners is 7; W of shape \[6, 4, 3, 3\] allows 1 to 6"),
    "the layer's own pads": ({}, {"pads": [0, 0]}, r"pads is \[0, 0\]; it needs 4 values"),
    "the layer's own shift": ({"D": zeros(7)}, {}, r"D has shape \[7\]; .* must be \[6\]"),
    "the layer's own clamp": ({}, {"upper": -1.0}, "lower is 0.* lower must not be above upper"),
}


@pytest.mark.parametrize("case", LOADING)
def test_a_layer_is_refused_when_it_is_loaded(case):
    constants, attributes, message = LOADING[case]
    layer, behind = small(**constants)
    with pytest.raises(Exception, match=f"FBSConvDepthwise: {message}"):
        reference.open_session(reference.fbs_model(layer, behind=behind, **attributes))


@pytest.mark.parametrize("name", ["W", "B", "A", "R", "V", "S"])
def test_weights_must_be_constant(name):
    layer, behind = small()
    with pytest.raises(Exception, match=f"FBSConvDepthwise: input {name} is not a constant"):
        reference.open_session(reference.fbs_model(layer, behind=behind, computed=[name]))


@pytest.mark.parametrize("name", ["D", "E"])
def test_the_optional_shifts_must_be_constant_too(name):
    layer, behind = small()
    session = reference.open_session(reference.fbs_model(layer, behind=behind, computed=[name]))
    with pytest.raises(Exception, match=f"FBSConvDepthwise: input {name} is not a constant"):
        session.run(None, {"X": zeros(1, 5, 5, 3), "I": np.array([[0, 1, 3]]), name: layer.constants[name]})


def test_element_types_are_checked_by_onnx_runtime():
    for changes in ({"V": zeros(6, 1, 3, 3).astype(np.float16)}, {"S": zeros(6).astype(np.float16)}):
        layer, behind = small(**changes)
        with pytest.raises(Exception, match="FBSConvDepthwise"):
            reference.open_session(reference.fbs_model(layer, behind=behind))
    layer, behind = small()
    with pytest.raises(Exception, match="FBSConvDepthwise"):
        reference.open_session(reference.fbs_model(layer, behind=behind, types={"X": TensorProto.DOUBLE}))


@pytest.mark.parametrize(
    ("x", "index", "message"),
    [
        ((1, 5, 5, 5), [[0, 1, 2, 3, 4]], ".* with H and W of 1 or more and Cx from 1 to C = 4"),
        ((1, 5, 5, 2), [[1, 1]], r"I\[0, 1\] is 1 after 1; each row must be ascending"),
        ((1, 5, 5, 2), [[1, 4]], r"I\[0, 1\] is 4; channels go from 0 to 3"),
        ((2, 5, 5, 1), [[1], [2], [3]], r"I has shape \[3, 1\]; X needs \[2, 1\]"),
        ((1, 0, 5, 1), [[1]], r"X has shape \[1, 0, 5, 1\]"),
        (
            (1, 2, 5, 1),
            [[1]],
            r"the depthwise convolution: X has shape \[1, 2, 5, 3\], smaller than the kernel of W \[6, 1, 3, 3\] with "
            r"dilations \[1, 1\] and pads \[0, 0, 0, 0\]",
        ),
        ((0, 5, 2, 1), zeros(0, 1), r"the depthwise convolution: X has shape \[0, 5, 2, 3\], smaller than the kernel"),
    ],
)
def test_an_input_is_refused(x, index, message):
    layer, behind = small()
    session = reference.open_session(reference.fbs_model(layer, behind=behind))
    with pytest.raises(Exception, match=f"FBSConvDepthwise: {message}"):
        session.run(None, {"X": zeros(*x), "I": np.array(index, np.int64)})
    good, index = make_input(np.random.default_rng(1), live=3, channels=4, size=(3, 3))
    assert_near(session.run(None, {"X": good, "I": index}), reference.fused(layer, behind, good, index), "")


def test_a_plane_smaller_than_the_first_kernel_is_refused():
    layer, behind = small()
    session = reference.open_session(reference.fbs_model(layer, behind=behind, pads=[0, 0, 0, 0]))
    with pytest.raises(Exception, match=r"FBSConvDepthwise: X has shape \[1, 2, 5, 1\], smaller than the kernel of W"):
        session.run(None, {"X": zeros(1, 2, 5, 1), "I": np.array([[1]])})
