import numpy as np
import pytest

from exporters import opset
from exporters.passes.fuse_linear import fuse_linear

VALUES = ", ".join(["float[2,4,6,7] u", "float[2,7,4,6] t", "float[2,168] f", "float[2,5] s"])


def case_of(rewritten, after, *, transposed=False, results="float[2,5] y"):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 168) if transposed else (168, 5)).astype(np.float32)
    text = (
        f"g (float[2,4,6,3] x, float[2,5] z) => ({results}) <{VALUES}> "
        f"{{ u = compress.Unpack<channels=7>(x, i) t = Transpose<perm=[0, 3, 1, 2]>(u) {after} }}"
    )
    constants = {"i": np.array([[0, 3, 5]]), "w": weight, "b": rng.normal(size=5).astype(np.float32)}
    return rewritten(text, {**constants, "flat": np.array([2, 168]), "folded": np.array([4, 84])})


@pytest.mark.parametrize(
    ("after", "transposed", "lower"),
    [
        ("f = Flatten<axis=1>(t) y = Gemm(f, w, b)", False, -opset.FLOAT_MAX),
        ("f = Reshape(t, flat) y = Gemm<transB=1>(f, w, b)", True, -opset.FLOAT_MAX),
        ("f = Flatten<axis=1>(t) s = Gemm<transB=1>(f, w, b) y = Relu(s)", True, 0.0),
        ("f = Flatten<axis=1>(t) y = Gemm(f, w)", False, -opset.FLOAT_MAX),
    ],
)
def test_flattening_layer_and_activation_become_one_node(rewritten, after, transposed, lower):
    case = case_of(rewritten, after, transposed=transposed)
    assert fuse_linear(case.graph) == 1
    assert case.ops() == ["Linear"]
    assert case.node("Linear").attrs == {"channels": 7, "lower": lower, "average": 0}
    case.assert_same_numbers()


def test_pools_in_between_work_on_packed_planes(rewritten):
    after = (
        "m = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(t) a = AveragePool<kernel_shape=[1, 3]>(m) "
        "f = Flatten<axis=1>(a) y = Gemm(f, w, b)"
    )
    rng = np.random.default_rng(0)
    text = (
        "g (float[2,4,6,3] x) => (float[2,5] y) <float[2,4,6,7] u, float[2,7,4,6] t, float[2,7,2,3] m, "
        f"float[2,7,2,1] a, float[2,14] f> "
        f"{{ u = compress.Unpack<channels=7>(x, i) t = Transpose<perm=[0, 3, 1, 2]>(u) {after} }}"
    )
    constants = {"i": np.array([[0, 3, 5]]), "w": rng.normal(size=(14, 5)), "b": rng.normal(size=5)}
    case = rewritten(text, {k: v if k == "i" else v.astype(np.float32) for k, v in constants.items()})
    assert fuse_linear(case.graph) == 1
    assert case.ops() == ["AveragePool", "Linear", "MaxPool", "Transpose", "Transpose"]
    case.assert_same_numbers()


def test_single_pixels_may_be_squeezed(rewritten):
    rng = np.random.default_rng(0)
    text = (
        "g (float[2,1,1,3] x) => (float[2,5] y) <float[2,1,1,7] u, float[2,7,1,1] t, float[2,7] f> "
        "{ u = compress.Unpack<channels=7>(x, i) t = Transpose<perm=[0, 3, 1, 2]>(u) f = Squeeze(t, plane) "
        "y = Gemm(f, w, b) }"
    )
    constants = {"w": rng.normal(size=(7, 5)).astype(np.float32), "b": rng.normal(size=5).astype(np.float32)}
    case = rewritten(text, constants | {"i": np.array([[0, 3, 5]]), "plane": np.array([2, 3])})
    assert fuse_linear(case.graph) == 1
    assert case.ops() == ["Linear"]
    case.assert_same_numbers()


def test_another_reader_keeps_the_planes(rewritten):
    after = "f = Flatten<axis=1>(t) y = Gemm(f, w, b) v = Neg(u)"
    case = case_of(rewritten, after, results="float[2,5] y, float[2,4,6,7] v")
    assert fuse_linear(case.graph) == 1
    assert case.ops() == ["Linear", "Neg", "Unpack"]
    case.assert_same_numbers()


@pytest.mark.parametrize(
    "after",
    [
        "f = Flatten<axis=1>(t) y = Gemm<alpha=2.0>(f, w, b)",
        "f = Flatten<axis=1>(t) y = Gemm(f, w, z)",  # a computed bias
        "f = Flatten<axis=1>(u) y = Gemm(f, w, b)",  # channels last
    ],
)
def test_anything_else_stays(rewritten, after):
    case = case_of(rewritten, after)
    assert fuse_linear(case.graph) == 0
    assert "Gemm" in case.ops()
