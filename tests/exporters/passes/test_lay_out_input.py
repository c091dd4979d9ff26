import numpy as np
import pytest
from fbs_reference import FBS

from exporters.passes.lay_out_input import lay_out_input


def case_of(rewritten, body, results="float[1,4,6,2] y"):
    rng = np.random.default_rng(0)
    shapes = {"w": (5, 3, 1, 1), "b": (5,), "s": (3, 5), "r": (5,)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    text = f"g (float[1,3,4,6] x) => ({results}) {{ {body.format(FBS)} }}"
    return rewritten(text, constants | {"all": np.arange(3)[None]})


def test_the_input_that_an_fbs_layer_reads_is_laid_out_by_the_library(rewritten):
    case = case_of(rewritten, "t = Transpose<perm=[0, 2, 3, 1]>(x) y, j = compress.FBSConv<{}>(t, all, w, b, s, r)")
    assert lay_out_input(case.graph) == 1
    assert case.ops() == ["FBSConv", "ToNHWC"]
    case.assert_same_numbers()


@pytest.mark.parametrize(
    ("body", "results"),
    [
        ("v = Relu(x) t = Transpose<perm=[0, 2, 3, 1]>(v) y, j = compress.FBSConv<{}>(t, all, w, b, s, r)", None),
        ("t = Transpose<perm=[0, 2, 3, 1]>(x) y = Neg(t)", "float[1,4,6,3] y"),
        ("t = Transpose<perm=[0, 3, 2, 1]>(x) y, j = compress.FBSConv<{}>(t, all, w, b, s, r)", "float[1,6,4,2] y"),
    ],
)
def test_other_transposes_stay(rewritten, body, results):
    case = case_of(rewritten, body, results or "float[1,4,6,2] y")
    assert lay_out_input(case.graph) == 0
    assert "ToNHWC" not in case.ops()
