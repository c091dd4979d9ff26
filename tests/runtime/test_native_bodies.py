"""Native kernels against the function bodies that every exported file carries, as stock ONNX Runtime runs them."""

import native_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest
from native_reference import FLOAT_MAX, make_input, make_layer

from exporters.functions import attach_functions

TOLERANCE = 2e-5  # as test_native_ops; both sides are float32

CASES = {
    "plain": {},
    "strided": {"strides": (2, 2)},
    "pointwise": {"kernel": (1, 1)},
    "every output wins": {"winners": 40},
    "shifted outside": {"post_shift": True, "lower": -FLOAT_MAX},
    "planes without their constants": {"left_out": True},
    "planes without their constants, all win, shifted": {"left_out": True, "winners": 40, "post_shift": True},
    "normalized": {"normalize": 1},
    "blocks of 4, the last partly": {"winner_block": 4, "outputs": 39, "winners": 22},
    "blocks of 8": {"winner_block": 8, "winners": 16},
    "blocks of 16, the last small": {"winner_block": 16, "outputs": 39, "winners": 32, "kernel": (1, 1)},
    "blocks, everything": {"winner_block": 16, "normalize": 1, "saliency_slope": 0.1, "post_shift": True},
    "leaky": {"saliency_slope": 0.1, "lower": -FLOAT_MAX},
}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("case", CASES)
def test_native_equals_function_body(case, batch):
    rng = np.random.default_rng(batch)
    layer = make_layer(rng, channels=24, **{"winners": 20, "outputs": 40} | CASES[case])
    x, index = make_input(rng, live=12, channels=24, batch=batch, size=(9, 8))
    bare = reference.fbs_model(layer)
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    feeds = {"X": x, "I": index}

    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    expected_y, expected_j = stock.run(None, feeds)
    for isa in reference.isa_names():
        session = reference.open_session(complete, isa)
        y, j = session.run(None, feeds)
        np.testing.assert_array_equal(j, expected_j)
        np.testing.assert_allclose(y, expected_y, rtol=0, atol=TOLERANCE * np.abs(expected_y).max())
        # Where both are there the kernel wins: the same bits as without the body.
        np.testing.assert_array_equal(y, reference.open_session(bare, isa).run(None, feeds)[0])


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("settings", [{}, {"post_shift": True, "kernel": (1, 1)}, {"winners": 40}, {"left_out": True}])
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("means", ["U", "M", "UM"])
def test_a_layer_with_means_equals_its_body(settings, behind, means, batch):
    rng = np.random.default_rng(batch)
    layer = make_layer(rng, channels=24, **{"winners": 20, "outputs": 40} | settings)
    x, index = make_input(rng, live=12, channels=24, batch=batch, size=(9, 8))
    # Not what X's means are: they must be read, not taken.
    feeds = {"X": x, "I": index}
    if "U" in means:
        feeds["U"] = rng.uniform(size=(batch, 12)).astype(np.float32)
    after = reference.make_depthwise(rng, 40) if behind else None
    bare = onnx.load_model_from_string(reference.fbs_model(layer, behind=after, means=means))
    bare.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    complete = attach_functions(bare).SerializeToString()
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    expected_y, expected_j, *expected_m = stock.run(None, feeds)
    for isa in reference.isa_names():
        y, j, *m = reference.open_session(complete, isa).run(None, feeds)
        np.testing.assert_array_equal(j, expected_j)
        np.testing.assert_allclose(y, expected_y, rtol=0, atol=TOLERANCE * np.abs(expected_y).max())
        assert len(m) == int("M" in means)
        for one, other in zip(m, expected_m, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * np.abs(expected_y).max())


def test_blocks_of_one_are_what_files_without_the_attribute_mean():
    rng = np.random.default_rng(0)
    layer = make_layer(rng, channels=24, outputs=40, winners=20)
    x, index = make_input(rng, live=12, channels=24, batch=2)
    for isa in reference.isa_names():
        sessions = [reference.open_session(reference.fbs_model(layer, winner_block=block), isa) for block in (1, None)]
        for now, before in zip(*(session.run(None, {"X": x, "I": index}) for session in sessions), strict=True):
            np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("lower", [-FLOAT_MAX, 0.0, 0.25])
@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_native_sum_equals_function_body(lower, means, packed):
    rng = np.random.default_rng(0)
    x, index = make_input(rng, live=9, channels=20, batch=2)
    feeds = {"X": x, "I": index, "Z": rng.normal(size=(*x.shape[:3], 20)).astype(np.float32)}
    if packed:
        feeds["Z"], feeds["K"] = make_input(rng, live=7, channels=20, batch=2, rows=1)
    bare = reference.unpack_add_model(20, lower, means=means, packed=packed)
    complete = attach_functions(onnx.load_model_from_string(bare)).SerializeToString()
    stock = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    for isa in reference.isa_names():
        for model in (bare, complete):
            got = reference.open_session(model, isa).run(None, feeds)[0]
            np.testing.assert_array_equal(got, stock.run(None, feeds)[0])
