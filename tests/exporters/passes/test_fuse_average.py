import numpy as np
import pytest

from exporters.passes.fuse_average import fuse_average

LINEAR = "y = compress.Linear<channels=7, lower=0.0, average=0>({}, i, w, b)"
MEAN = "m = ReduceMean<keepdims=1>(x, axes) "
VALUES = "float[2,1,1,3] m, float[2,3,1,1] t, float[2,3] f, float[2,1,1,3] p"


def case_of(rewritten, body, results="float[2,5] y"):
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(7, 5)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float32),
        "i": np.array([[0, 3, 5]]),
        "axes": np.array([1, 2]),
        "rows": np.array([1]),
        "flat": np.array([2, 3]),
        "turned": np.array([3, 2]),
    }
    return rewritten(f"g (float[2,4,6,3] x) => ({results}) <{VALUES}> {{ {body} }}", constants)


@pytest.mark.parametrize(
    "body",
    [
        MEAN + LINEAR.format("m"),
        "m = ReduceMean<keepdims=1>(x, axes) t = Transpose<perm=[0, 3, 1, 2]>(m) f = Reshape(t, flat) "
        "p = Unsqueeze(f, axes) " + LINEAR.format("p"),
        MEAN + "f = Squeeze(m, axes) p = Unsqueeze(f, axes) " + LINEAR.format("p"),
    ],
    ids=["at once", "flattened", "squeezed"],
)
def test_the_average_is_the_layers_own(rewritten, body):
    case = case_of(rewritten, body)
    assert fuse_average(case.graph) == 1
    assert case.ops() == ["Linear"]
    assert case.node("Linear").attrs["average"] == 1
    case.assert_same_numbers()


@pytest.mark.parametrize(
    ("body", "results"),
    [
        (MEAN + LINEAR.format("m") + " z = Neg(m)", "float[2,5] y, float[2,1,1,3] z"),
        (MEAN + LINEAR.format("m"), "float[2,5] y, float[2,1,1,3] m"),
        ("m = ReduceMax<keepdims=1>(x, axes) " + LINEAR.format("m"), "float[2,5] y"),
        (MEAN + "p = Relu(m) " + LINEAR.format("p"), "float[2,5] y"),
        (
            MEAN + "f = Squeeze(m, axes) q = Transpose<perm=[1, 0]>(f) s = Reshape(q, flat) p = Unsqueeze(s, axes) "
            "" + LINEAR.format("p"),
            "float[2,5] y",
        ),
    ],
    ids=["another reader", "handed out", "the largest", "something else between", "samples mixed"],
)
def test_anything_else_stays(rewritten, body, results):
    case = case_of(rewritten, body, results)
    ops = case.ops()
    assert fuse_average(case.graph) == 0
    assert case.ops() == ops
    case.assert_same_numbers()
