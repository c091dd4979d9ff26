import numpy as np
import pytest

from exporters import opset
from exporters.passes.fuse_residual import fuse_residual, fuse_summand

PLANES = "float[2,4,6,7]"


def case_of(rewritten, after, results=f"{PLANES} y"):
    text = (
        f"g (float[2,4,6,3] x, {PLANES} z, float[2,4,6,2] w) => ({results}) <{PLANES} u, {PLANES} v, {PLANES} s> "
        f"{{ u = compress.Unpack<channels=7>(x, i) {after} }}"
    )
    return rewritten(
        text, {"i": np.array([[0, 3, 5]]), "k": np.array([[3, 6]]), "c": np.ones((2, 4, 6, 7), np.float32)}
    )


@pytest.mark.parametrize(
    ("after", "lower"),
    [
        ("y = Add(u, z)", -opset.FLOAT_MAX),
        ("y = Add(z, u)", -opset.FLOAT_MAX),
        ("s = Add(u, z) y = Relu(s)", 0.0),
    ],
)
def test_sum_and_activation_become_one_node(rewritten, after, lower):
    case = case_of(rewritten, after)
    assert fuse_residual(case.graph) == 1
    assert case.ops() == ["UnpackAdd"]
    assert case.node("UnpackAdd").attrs == {"channels": 7, "lower": lower}
    case.assert_same_numbers()


def test_of_two_unpacks_one_stays(rewritten):
    case = case_of(rewritten, "v = compress.Unpack<channels=7>(x, i) s = Add(u, v) y = Relu(s)")
    assert fuse_residual(case.graph) == 1
    assert case.ops() == ["Unpack", "UnpackAdd"]
    case.assert_same_numbers()


def test_of_two_unpacks_none_stays_where_one_sum_alone_reads_them(rewritten):
    case = case_of(rewritten, "v = compress.Unpack<channels=7>(w, k) s = Add(u, v) y = Relu(s)")
    assert fuse_residual(case.graph) == fuse_summand(case.graph) == 1
    assert case.ops() == ["UnpackAdd"]
    assert len(case.node("UnpackAdd").inputs) == 4
    case.assert_same_numbers()
    assert fuse_summand(case.graph) == 0


@pytest.mark.parametrize(
    ("after", "results"),
    [
        ("v = compress.Unpack<channels=7>(w, k) y = Add(u, v) s = Neg(v)", f"{PLANES} y, {PLANES} s"),
        ("v = compress.Unpack<channels=7>(w, k) y = Add(u, v)", f"{PLANES} y, {PLANES} v"),
        ("y = Add(u, z)", f"{PLANES} y"),
    ],
)
def test_a_summand_that_others_read_or_that_is_dense_stays(rewritten, after, results):
    case = case_of(rewritten, after, results)
    assert fuse_residual(case.graph) == 1
    ops = case.ops()
    assert fuse_summand(case.graph) == 0
    assert case.ops() == ops
    case.assert_same_numbers()


@pytest.mark.parametrize(
    ("after", "results"),
    [
        ("y = Add(u, c)", f"{PLANES} y"),  # a constant could be folded elsewhere
        ("y = Mul(u, z)", f"{PLANES} y"),
        ("y = Add(u, z) v = Neg(u)", f"{PLANES} y, {PLANES} v"),  # somebody else reads the planes
        ("y = Add(u, z)", f"{PLANES} y, {PLANES} u"),
        ("y = Add(u, u)", f"{PLANES} y"),
    ],
)
def test_anything_else_stays(rewritten, after, results):
    case = case_of(rewritten, after, results)
    assert fuse_residual(case.graph) == 0
    assert "UnpackAdd" not in case.ops()


def test_a_sum_read_twice_keeps_its_relu(rewritten):
    case = case_of(rewritten, "s = Add(u, z) y = Relu(s) v = Neg(s)", f"{PLANES} y, {PLANES} v")
    assert fuse_residual(case.graph) == 1
    assert case.ops() == ["Neg", "Relu", "UnpackAdd"]
    case.assert_same_numbers()
