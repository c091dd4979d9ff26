import numpy as np
import pytest

from exporters import opset
from exporters.passes.fuse_activation import fuse_activation

NONE = f"lower=-{opset.FLOAT_MAX}, upper={opset.FLOAT_MAX}"


def case_of(rewritten, after, clamp=NONE, result="float[2,4,6,2] y"):
    generator = np.random.default_rng(0)
    shapes = {"w": (5, 7, 1, 1), "b": (5,), "s": (7, 5), "r": (5,)}
    constants = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return rewritten(
        f"g (float[2,4,6,7] x) => ({result}) <float[2,4,6,2] f> {{ f, j = compress.FBSConv<winners=2, strides=[1,1],"
        f" pads=[0,0,0,0], dilations=[1,1], {clamp}, saliency_slope=1.0, normalize=0,"
        f" winner_block=1>(x, i, w, b, s, r) {after} }}",
        constants | {"i": np.arange(7)[None]},
    )


BOUNDS = "low = Constant<value_float=0.0>() high = Constant<value_float=6.0>()"


@pytest.mark.parametrize(
    ("after", "clamp", "lower", "upper"),
    [
        ("y = Relu(f)", NONE, 0.0, opset.FLOAT_MAX),
        (f"{BOUNDS} y = Clip(f, low, high)", NONE, 0.0, 6.0),
        (f"{BOUNDS} y = Clip(f, , high)", NONE, -opset.FLOAT_MAX, 6.0),
        (f"{BOUNDS} r6 = Clip(f, low, high) y = Relu(r6)", NONE, 0.0, 6.0),
        ("y = Relu(f)", "lower=-2.0, upper=-1.0", 0.0, 0.0),
    ],
)
def test_activation_becomes_the_clamp(rewritten, after, clamp, lower, upper):
    case = case_of(rewritten, after, clamp)
    assert fuse_activation(case.graph) >= 1
    assert case.ops() == ["FBSConv"]
    assert (case.node("FBSConv").attrs["lower"], case.node("FBSConv").attrs["upper"]) == (lower, upper)
    case.assert_same_numbers()


@pytest.mark.parametrize(
    ("after", "result"),
    [
        ("y = Sigmoid(f)", "float[2,4,6,2] y"),
        ("y = Relu(f) z = Neg(f)", "float[2,4,6,2] y, float[2,4,6,2] z"),
        ("y = Relu(f)", "float[2,4,6,2] y, float[2,4,6,2] f"),
    ],
)
def test_other_readers_keep_it(rewritten, after, result):
    case = case_of(rewritten, after, result=result)
    assert fuse_activation(case.graph) == 0
