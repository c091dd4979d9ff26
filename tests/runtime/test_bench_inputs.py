"""Inputs fit what the model says about them."""

import numpy as np
import pytest

from runtime.bench.inputs import InputInfo, make_inputs
from runtime.results import BenchmarkError


@pytest.mark.parametrize(
    ("type_name", "dtype"),
    [
        ("tensor(float)", np.float32),
        ("tensor(float16)", np.float16),
        ("tensor(double)", np.float64),
        ("tensor(uint8)", np.uint8),
        ("tensor(int8)", np.int8),
        ("tensor(int64)", np.int64),
        ("tensor(bool)", np.bool_),
    ],
)
def test_every_type_gets_its_array(type_name, dtype):
    info = InputInfo("x", type_name, ("batch", 3, 16, 16))
    array = make_inputs([info], batch=2, seed=0)["x"]
    assert array.shape == (2, 3, 16, 16)
    assert array.dtype == dtype
    assert len(np.unique(array)) > 1
    np.testing.assert_array_equal(array, make_inputs([info], batch=2, seed=0)["x"])


def test_pixels_use_the_whole_range():
    array = make_inputs([InputInfo("x", "tensor(uint8)", (None, 64, 64))], batch=1, seed=0)["x"]
    assert (array.min(), array.max()) == (0, 255)


def test_wide_integers_stay_in_range_of_any_index():
    array = make_inputs([InputInfo("x", "tensor(int64)", (1, 100))], batch=1, seed=0)["x"]
    assert set(array.ravel().tolist()) == {0, 1}


def test_a_vector_of_fixed_size_is_no_batch():
    infos = [InputInfo("x", "tensor(float)", ("n", 4)), InputInfo("sizes", "tensor(float)", (2,))]
    assert make_inputs(infos, batch=8, seed=0)["sizes"].shape == (2,)


def test_every_problem_is_named():
    infos = [
        InputInfo("image", "tensor(float)", ("n", 3, "height", None)),
        InputInfo("words", "tensor(string)", (1,)),
        InputInfo("mask", "tensor(float)", (4, 3)),
    ]
    with pytest.raises(BenchmarkError) as caught:
        make_inputs(infos, batch=1, seed=0)
    text = str(caught.value)
    assert "input 'image' leaves more than the batch free (height, dimension 3)" in text
    assert "input 'words' has type tensor(string)" in text
    assert "input 'mask' has the fixed batch 4, asked for was 1" in text
