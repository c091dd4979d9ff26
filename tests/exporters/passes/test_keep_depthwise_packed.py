import numpy as np
import pytest
from fbs_reference import FBS

from exporters import opset
from exporters.passes.keep_depthwise_packed import keep_depthwise_packed

CONV = "Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=7>"
VALUES = "float[2,4,6,7] u, float[2,7,4,6] t, float[2,7,4,6] c, float[2,7,4,6] a, float[2,4,6,7] z, int64[2,2] j"


def case_of(rewritten, middle, *, fbs="y, j = compress.FBSConv<{}>(z, all, w, b, s, r)", results="float[2,4,6,2] y"):
    rng = np.random.default_rng(0)
    shapes = {
        "f": (7, 1, 3, 3),
        "m": (7, 7, 3, 3),
        "g": (7,),
        "w": (5, 7, 1, 1),
        "b": (5,),
        "s": (7, 5),
        "r": (5,),
        "d": (5,),
    }
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"i": np.array([[0, 2, 3]]), "all": np.arange(7)[None], "v": constants["w"].repeat(3, 2).repeat(3, 3)}
    text = (
        f"g (float[2,4,6,3] x) => ({results}) <{VALUES}> {{ u = compress.Unpack<channels=7>(x, i) "
        f"t = Transpose<perm=[0, 3, 1, 2]>(u) {middle} {fbs.format(FBS)} }}"
    )
    return rewritten(text, constants)


BACK = "z = Transpose<perm=[0, 2, 3, 1]>"
BOUNDS = "low = Constant<value_float=-0.5>() high = Constant<value_float=1.5>()"


@pytest.mark.parametrize(
    ("middle", "bounds"),
    [
        (f"c = {CONV}(t, f, g) {BACK}(c)", (-opset.FLOAT_MAX, opset.FLOAT_MAX)),
        (f"c = {CONV}(t, f) {BACK}(c)", (-opset.FLOAT_MAX, opset.FLOAT_MAX)),
        (f"c = {CONV}(t, f, g) a = Relu(c) {BACK}(a)", (0.0, opset.FLOAT_MAX)),
        (f"{BOUNDS} c = {CONV}(t, f, g) a = Clip(c, low, high) {BACK}(a)", (-0.5, 1.5)),
    ],
)
@pytest.mark.parametrize("shift", ["", ", d"])
def test_convolution_and_reader_become_packed(rewritten, middle, bounds, shift):
    case = case_of(rewritten, middle, fbs=f"y, j = compress.FBSConv<{{}}>(z, all, w, b, s, r{shift})")
    assert keep_depthwise_packed(case.graph) == 1
    assert case.ops() == ["DepthwiseConv", "FBSConv"]
    attributes = case.node("DepthwiseConv").attrs
    assert (attributes["lower"], attributes["upper"]) == bounds
    assert case.node("FBSConv").inputs[1].name == "i"
    case.assert_same_numbers()


def test_several_layers_may_read_one(rewritten):
    both = "y, j = compress.FBSConv<{0}>(z, all, w, b, s, r) h, l = compress.FBSConv<{0}>(z, all, w, b, s, b)"
    case = case_of(rewritten, f"c = {CONV}(t, f, g) {BACK}(c)", fbs=both, results="float[2,4,6,2] y, float[2,4,6,2] h")
    assert keep_depthwise_packed(case.graph) == 1
    assert case.ops() == ["DepthwiseConv", "FBSConv", "FBSConv"]
    case.assert_same_numbers()


LEFT_ALONE = {
    "another activation": {"middle": f"c = {CONV}(t, f, g) a = Sigmoid(c) {BACK}(a)"},
    "a plane read elsewhere": {
        "middle": f"c = {CONV}(t, f, g) {BACK}(c) n = Neg(c)",
        "results": "float[2,4,6,2] y, float[2,7,4,6] n",
    },
    "another reader behind": {
        "middle": f"c = {CONV}(t, f, g) {BACK}(c) n = Neg(z)",
        "results": "float[2,4,6,2] y, float[2,4,6,7] n",
    },
    "handed out": {"middle": f"c = {CONV}(t, f, g) {BACK}(c)", "results": "float[2,4,6,2] y, float[2,4,6,7] z"},
    "a reader that pads": {
        "middle": f"c = {CONV}(t, f, g) {BACK}(c)",
        "fbs": f"y, j = compress.FBSConv<{FBS.replace('pads=[0,0,0,0]', 'pads=[1,1,1,1]')}>(z, all, v, b, s, r)",
    },
    "not depthwise": {"middle": f"c = {CONV.replace('group=7', 'group=1')}(t, m, g) {BACK}(c)"},
}


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_all_else_is_left_alone(rewritten, why):
    case = case_of(rewritten, **LEFT_ALONE[why])
    assert keep_depthwise_packed(case.graph) == 0
    assert "DepthwiseConv" not in case.ops()
    case.assert_same_numbers()
