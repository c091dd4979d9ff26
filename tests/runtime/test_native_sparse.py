"""SparseConv on every instruction set, against plain numpy."""

import native_reference as reference
import numpy as np
import pytest
from sparse_reference import make_sparse, sparse_conv, sparse_model

# float32 sums in another order, against float64: measured below 1e-6 of the largest output.
TOLERANCE = 2e-5

ISAS = reference.isa_names()


def assert_right(layer, x, threads=1):
    expected = sparse_conv(layer, x)
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    for isa in ISAS:
        (got,) = reference.open_session(sparse_model(layer), isa, threads).run(None, {"X": x})
        assert got.shape == expected.shape, isa
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * scale, err_msg=isa)


def planes(rng, channels, size, batch=1):
    return rng.normal(size=(batch, channels, *size)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 33])
def test_ragged_channels(channels, outputs):
    rng = np.random.default_rng(channels * 100 + outputs)
    for kernel in [(1, 1), (3, 3)]:
        assert_right(make_sparse(rng, channels=channels, outputs=outputs, kernel=kernel), planes(rng, channels, (5, 7)))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (4, 1), (7, 7), (8, 8), (14, 14), (17, 19), (57, 61)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (7, 7), (1, 3)])
def test_plane_sizes(size, kernel):
    rng = np.random.default_rng(size[0] * 20 + size[1])
    for strides in [(1, 1), (2, 2)]:
        assert_right(make_sparse(rng, channels=5, outputs=9, kernel=kernel, strides=strides), planes(rng, 5, size))


CASES = {
    "no padding": {"pads": (0, 0, 0, 0)},
    "padding at one corner": {"pads": (0, 0, 1, 2), "strides": (2, 2)},
    "padding beyond the kernel": {"pads": (4, 0, 5, 3)},
    "stride 2 down only": {"strides": (2, 1)},
    "stride 3 across only": {"strides": (1, 3)},
    "stride beyond the kernel": {"strides": (4, 5)},
    "dilated": {"dilations": (2, 2), "pads": (2, 2, 2, 2)},
    "dilated across only": {"dilations": (1, 3), "pads": (1, 3, 1, 3)},
    "dilated and strided": {"dilations": (3, 2), "strides": (2, 2), "pads": (2, 0, 1, 3)},
    "relu": {"lower": 0.0},
    "relu6": {"lower": 0.0, "upper": 6.0},
    "outputs all equal": {"lower": 2.5, "upper": 2.5},
}


@pytest.mark.parametrize("case", CASES)
def test_attributes(case):
    rng = np.random.default_rng(5)
    layer = make_sparse(rng, channels=11, outputs=21, **CASES[case])
    assert_right(layer, planes(rng, 11, (9, 10), batch=2), threads=2)


def test_random_layers():
    rng = np.random.default_rng(6)
    tried = 0
    while tried < 40:
        kernel = tuple(rng.choice([1, 3, 5, 7], size=2).tolist())
        strides, dilations = (tuple(rng.integers(1, 4, size=2).tolist()) for _ in range(2))
        pads = tuple(rng.integers(0, 4, size=4).tolist())
        size = tuple(rng.integers(1, 40, size=2).tolist())
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        if size[0] + pads[0] + pads[2] < reach[0] or size[1] + pads[1] + pads[3] < reach[1]:
            continue
        channels, outputs, batch, threads = rng.integers(1, [34, 34, 4, 5]).tolist()
        mask = rng.random((channels, *kernel)) < rng.random()
        mask[0, 0, 0] = True  # a layer without rows is none
        settings = {"mask": mask, "strides": strides, "dilations": dilations, "pads": pads}
        layer = make_sparse(rng, channels=channels, outputs=outputs, kernel=kernel, **settings)
        assert_right(layer, planes(rng, channels, size, batch), threads)
        tried += 1


def test_more_rows_than_are_gathered_at_a_time():
    rng = np.random.default_rng(7)
    layer = make_sparse(rng, channels=260, outputs=5, lower=0.0)
    assert layer.mask.sum() > 2 * 512
    assert_right(layer, planes(rng, 260, (6, 7)))


def test_absent_rows_are_never_read():
    # A channel without rows may hold anything, and a tap that is absent never meets its pixel.
    rng = np.random.default_rng(8)
    mask = np.ones((3, 3, 3), bool)
    mask[1] = False
    layer = make_sparse(rng, channels=3, outputs=17, mask=mask)
    x = planes(rng, 3, (5, 5))
    clean = sparse_conv(layer, x)
    x[:, 1] = np.nan
    for isa in ISAS:
        (got,) = reference.open_session(sparse_model(layer), isa).run(None, {"X": x})
        np.testing.assert_allclose(got, clean, atol=TOLERANCE * np.abs(clean).max(), err_msg=isa)


@pytest.mark.parametrize("isa", ISAS)
def test_values_that_are_no_numbers_reach_their_neighbours_only(isa):
    rng = np.random.default_rng(9)
    layer = make_sparse(rng, channels=4, outputs=6, mask=np.ones((4, 3, 3), bool), lower=0.0)
    x = planes(rng, 4, (9, 9))
    x[0, 2, 4, 4] = np.nan
    (got,) = reference.open_session(sparse_model(layer), isa).run(None, {"X": x})
    near = np.zeros((9, 9), bool)
    near[3:6, 3:6] = True
    np.testing.assert_array_equal(np.isnan(got), np.broadcast_to(near, got.shape))


@pytest.mark.parametrize("size", [(20, 20), (3, 5), (64, 9)])
@pytest.mark.parametrize("isa", ISAS)
def test_threads_and_batches_agree(size, isa):
    rng = np.random.default_rng(10)
    layer = make_sparse(rng, channels=24, outputs=40)
    x = planes(rng, 24, size, batch=3)
    (alone,) = reference.open_session(sparse_model(layer), isa, 1).run(None, {"X": x})
    for threads in (2, 5):
        (got,) = reference.open_session(sparse_model(layer), isa, threads).run(None, {"X": x})
        np.testing.assert_array_equal(got, alone)  # sums of a pixel do not depend on its tile
    for n in range(3):
        (got,) = reference.open_session(sparse_model(layer), isa, 3).run(None, {"X": x[n : n + 1]})
        np.testing.assert_array_equal(got[0], alone[n])


def test_shapes_may_change_between_runs():
    rng = np.random.default_rng(11)
    layer = make_sparse(rng, channels=8, outputs=12)
    session = reference.open_session(sparse_model(layer), threads=2)
    for size, batch in [((6, 5), 1), ((1, 1), 2), ((12, 3), 3), ((6, 5), 1)]:
        x = planes(rng, 8, size, batch)
        expected = sparse_conv(layer, x)
        (got,) = session.run(None, {"X": x})
        np.testing.assert_allclose(got, expected, atol=TOLERANCE * np.abs(expected).max())
    assert session.run(None, {"X": planes(rng, 8, (5, 5), 0)})[0].shape == (0, 12, 5, 5)


def test_a_steady_state_allocates_nothing():
    rng = np.random.default_rng(12)
    session = reference.open_session(sparse_model(make_sparse(rng, channels=16, outputs=20)))
    x = planes(rng, 16, (12, 12), batch=2)
    assert reference.allocated_after_the_first(session, {"X": x}) == 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 8, 9, 8), [2, 12, 5, 4]),
        (("batch", 8, "H", 8), ["batch", 12, "conv(H,3,2,1,2)", 4]),
        ((None, 8, 9, 8), [None] * 4),
    ],
)
def test_shapes_are_known_before_the_first_run(shape, expected):
    layer = make_sparse(np.random.default_rng(0), channels=8, outputs=12, strides=(2, 2))
    (y,) = reference.open_session(sparse_model(layer, shape=shape)).get_outputs()
    assert y.shape == expected


REFUSED = {
    "in_channels is missing": {"in_channels": None},
    "kernel_shape is [3]": {"kernel_shape": [3]},
    "strides is [0, 1]": {"strides": [0, 1]},
    "pads is [1, 1]": {"pads": [1, 1]},
    "dilations is [1, 5000]": {"dilations": [1, 5000]},
    "lower must not be above upper": {"lower": 2.0, "upper": 1.0},
    "need [8]": {"in_channels": 7},
    "need [25]": {"kernel_shape": [5, 5]},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_bad_attributes_are_refused(reason):
    layer = make_sparse(np.random.default_rng(0))
    model = sparse_model(layer, **REFUSED[reason])
    with pytest.raises(Exception, match=reason.replace("[", r"\[").replace("]", r"\]")):
        reference.open_session(model)


def test_bad_constants_are_refused():
    rng = np.random.default_rng(0)
    layer = make_sparse(rng)
    for name in ("W", "P", "B"):
        with pytest.raises(Exception, match=f"input {name} is not a constant"):
            reference.open_session(sparse_model(layer, computed=(name,)))
    with pytest.raises(Exception, match=r"B has shape \[11\]"):
        reference.open_session(sparse_model(layer.changed(bias=layer.bias[1:])))


def test_bad_inputs_are_refused():
    rng = np.random.default_rng(0)
    session = reference.open_session(sparse_model(make_sparse(rng, pads=(0, 0, 0, 0))))
    for shape, reason in [((1, 7, 5, 5), r"X has shape \[1, 7, 5, 5\]"), ((1, 8, 2, 5), "smaller than a kernel")]:
        with pytest.raises(Exception, match=reason):
            session.run(None, {"X": np.zeros(shape, np.float32)})
