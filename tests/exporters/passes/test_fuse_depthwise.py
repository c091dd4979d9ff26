import numpy as np
import pytest
from fbs_reference import FBS

from exporters.passes.fuse_depthwise import fuse_depthwise
from exporters.passes.store_halves import store_half_predictors, store_half_weights

WINDOW = "strides=[1,1], pads=[1,1,1,1], dilations=[1,1], lower=-0.5, upper=6.0, channels=5"
POINTWISE = f"t, j = compress.FBSConv<{FBS}>(x, i, w, b, s, r)"
BEHIND = f"y = compress.DepthwiseConv<{WINDOW}>(t, j, f, g)"


def case_of(rewritten, layer=POINTWISE, behind=BEHIND, *, batch=1, results="float[{},4,6,2] y"):
    """Three of seven channels go in; two of five win, and a depthwise convolution follows."""
    rng = np.random.default_rng(0)
    shapes = {
        "w": (5, 7, 1, 1),
        "v": (5, 7, 3, 3),
        "b": (5,),
        "s": (7, 5),
        "r": (5,),
        "d": (5,),
        "e": (7,),
        "f": (5, 1, 3, 3),
        "g": (5,),
        "f6": (6, 1, 3, 3),
        "g6": (6,),
    }
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"i": np.array([[0, 2, 3]]), "k": np.tile([[1, 4]], (batch, 1))}
    text = f"g (float[{batch},4,6,3] x) => ({results.format(batch)}) {{ {layer} {behind} }}"
    return rewritten(text, constants)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "layer",
    [
        POINTWISE,
        POINTWISE.replace("w, b", "v, b").replace("pads=[0,0,0,0]", "pads=[1,1,1,1]"),
        POINTWISE.replace("r)", "r, d)"),
        POINTWISE.replace("r)", "r, , e)"),
        POINTWISE.replace("r)", "r, d, e)"),
    ],
    ids=["pointwise", "3x3", "shifted", "left out", "shifted, left out"],
)
@pytest.mark.parametrize("strides", ["[1,1]", "[2,2]"])
def test_a_layer_and_its_depthwise_convolution_become_one_node(rewritten, layer, strides, batch):
    behind = BEHIND.replace("strides=[1,1]", f"strides={strides}")
    results = "float[{},4,6,2] y" if strides == "[1,1]" else "float[{},2,3,2] y"
    case = case_of(rewritten, layer, behind, batch=batch, results=results)
    assert fuse_depthwise(case.graph) == 1
    assert case.ops() == ["FBSConvDepthwise"]
    case.assert_same_numbers()


def test_others_may_read_the_winners(rewritten):
    case = case_of(
        rewritten,
        behind=f"{BEHIND} u = compress.Unpack<channels=5>(y, j)",
        results="float[{0},4,6,5] u, int64[{0},2] j",
    )
    assert fuse_depthwise(case.graph) == 1
    assert case.ops() == ["FBSConvDepthwise", "Unpack"]
    case.assert_same_numbers()


def test_halves_stay_halves(rewritten):
    case = case_of(rewritten)
    layer = case.node("FBSConv")
    for position in (2, 4):
        layer.inputs[position].values = layer.inputs[position].values.astype(np.float16).astype(np.float32)
    assert store_half_predictors(case.graph) == store_half_weights(case.graph) == 1
    assert fuse_depthwise(case.graph) == 1
    fused = case.node("FBSConvDepthwise")
    assert [tensor.dtype for tensor in fused.inputs[2:7:2]] == [np.float16, np.float16, np.float32]  # W, A, V


LEFT_ALONE = {
    "two readers": {"behind": f"{BEHIND} n = Neg(t)", "results": "float[{0},4,6,2] y, float[{0},4,6,2] n"},
    "two convolutions": {
        "behind": f"{BEHIND} {BEHIND.replace('y =', 'z =')}",
        "results": "float[{0},4,6,2] y, float[{0},4,6,2] z",
    },
    "other channels": {"behind": BEHIND.replace("t, j", "t, k")},
    "a channel that does not exist": {"behind": BEHIND.replace("channels=5", "channels=6").replace("f, g", "f6, g6")},
    "handed out": {"results": "float[{0},4,6,2] y, float[{0},4,6,2] t"},
    "another reader": {"behind": "y = Neg(t)"},
    "something between": {"behind": f"u = Neg(t) {BEHIND.replace('(t', '(u')}"},
}


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_all_else_is_left_alone(rewritten, why):
    case = case_of(rewritten, **LEFT_ALONE[why])
    ops = case.ops()
    assert fuse_depthwise(case.graph) == 0
    assert case.ops() == ops
    case.assert_same_numbers()
