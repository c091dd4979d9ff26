import numpy as np
import pytest
from fbs_reference import FBS

from exporters.passes.share_means import share_means

SUM = "y = compress.UnpackAdd<channels=5, lower=0.0>(x, i, z)"
LAYER = f"a, j = compress.FBSConv<{FBS}>(y, all, w, b, s, r)"
WINDOW = ", ".join(f"depthwise_{part}" for part in ("strides=[1,1]", "pads=[1,1,1,1]", "dilations=[1,1]"))
FUSED = f"a, j = compress.FBSConvDepthwise<{FBS}, {WINDOW}, depthwise_lower=0.0, depthwise_upper=6.0>"


def case_of(rewritten, layers=LAYER, total=SUM, *, batch=1, results="float[{0},4,6,2] a"):
    """Three of five channels and a dense summand go in; layers of five outputs read the sum."""
    rng = np.random.default_rng(0)
    shapes = {
        "w": (5, 5, 1, 1),
        "b": (5,),
        "s": (5, 5),
        "r": (5,),
        "d": (5,),
        "e": (5,),
        "f": (5, 1, 3, 3),
    }
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"i": np.array([[0, 2, 3]]), "all": np.arange(5)[None]}
    text = f"g (float[{batch},4,6,3] x, float[{batch},4,6,5] z) => ({results.format(batch)}) {{ {total} {layers} }}"
    return rewritten(text, constants)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "layer",
    [
        LAYER,
        LAYER.replace("r)", "r, d)"),
        f"{FUSED}(y, all, w, b, s, r, f, b)",
        f"{FUSED}(y, all, w, b, s, r, f, b, d)",
    ],
    ids=["layer", "shifted", "depthwise behind", "shifted, depthwise behind"],
)
def test_a_layer_reads_the_means_of_a_sum(rewritten, layer, batch):
    case = case_of(rewritten, layer, batch=batch)
    assert share_means(case.graph) == 1
    total, reader = case.node("UnpackAdd"), next(node for node in case.graph.nodes if "FBSConv" in node.op)
    assert len(total.outputs) == 2
    assert reader.inputs[-1] is total.outputs[1]
    case.assert_same_numbers()
    assert share_means(case.graph) == 0


def test_all_readers_of_a_sum_share_its_means(rewritten):
    second = LAYER.replace("a, j", "c, l").replace("r)", "r, d)")
    results = "float[{0},4,6,2] a, float[{0},4,6,2] c, float[{0},4,6,5] y"
    case = case_of(rewritten, f"{LAYER} {second}", results=results)
    assert share_means(case.graph) == 2
    assert len(case.node("UnpackAdd").outputs) == 2
    case.assert_same_numbers()


def behind_a_layer(rewritten, first, second, *, batch=1, lower="0.0"):
    """Three of five channels go into the first layer; of its five outputs, two win and go into the second."""
    rng = np.random.default_rng(1)
    shapes = {"w": (5, 5, 1, 1), "b": (5,), "s": (5, 5), "r": (5,), "f": (5, 1, 3, 3), "g": (5,)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    values |= {"i": np.array([[0, 2, 3]]), "z": np.clip(values["g"], float(lower), 6.0), "o": np.array([[1, 4]])}
    first = first.replace("depthwise_lower=0.0", f"depthwise_lower={lower}")
    text = f"g (float[{batch},4,6,3] x) => (float[{batch},4,6,2] c) {{ {first} {second} }}"
    return rewritten(text, values)


FIRST = LAYER.replace("(y, all,", "(x, i,")
FIRST_FUSED = f"{FUSED}(x, i, w, b, s, r, f, g)"
SECOND = LAYER.replace("a, j", "c, l").replace("(y, all,", "(a, j,")
SECOND_WITH_REST = SECOND.replace("r)", "r, , z)")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FIRST, SECOND),
        (FIRST, f"{FUSED}(a, j, w, b, s, r, f, b)".replace("a, j =", "c, l =")),
        (FIRST_FUSED, SECOND_WITH_REST),
    ],
    ids=["layer", "depthwise behind the second", "depthwise behind the first"],
)
@pytest.mark.parametrize("lower", ["0.0", "-1.0"])
def test_a_layer_reads_the_means_of_a_layer(rewritten, first, second, lower, batch):
    case = behind_a_layer(rewritten, first, second, batch=batch, lower=lower)
    assert share_means(case.graph) == 1
    source, reader = case.graph.nodes
    assert len(source.outputs) == 3
    assert reader.inputs[-1] is source.outputs[2]
    case.assert_same_numbers()
    assert share_means(case.graph) == 0


OTHER_MEANS = {
    "means with what the reader has not left out": (FIRST_FUSED, SECOND),
    "means without what the reader has left out": (FIRST, SECOND_WITH_REST),
    "means with another rest": (FIRST_FUSED, SECOND_WITH_REST.replace(", z)", ", g)")),
    "the planes as other channels": (FIRST, SECOND.replace("(a, j,", "(a, o,")),
}


@pytest.mark.parametrize("why", OTHER_MEANS)
def test_means_of_anything_else_are_not_read(rewritten, why):
    case = behind_a_layer(rewritten, *OTHER_MEANS[why])
    assert share_means(case.graph) == 0
    case.assert_same_numbers()


LEFT_ALONE = {
    "not a sum": {"total": "y = Neg(z)"},
    "planes without their constants": {"layers": LAYER.replace("r)", "r, , e)")},
    "another reader": {"layers": "a = Neg(y)", "results": "float[{0},4,6,5] a"},
}


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_all_else_is_left_alone(rewritten, why):
    case = case_of(rewritten, **LEFT_ALONE[why])
    assert share_means(case.graph) == 0
    case.assert_same_numbers()
