import numpy as np
import pytest
from fbs_reference import FBS

from exporters.passes.fuse_max_pool import fuse_max_pool

BEFORE = "a = Transpose<perm=[0, 3, 1, 2]>(u)"
AFTER = "y = Transpose<perm=[0, 2, 3, 1]>(b)"


def case_of(rewritten, body, result="float[1,2,3,2] y"):
    """An FBS layer of two channels to three, two of which win, and what reads its planes u."""
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 2, 1, 1), "b": (3,), "s": (2, 3), "r": (3,)}
    constants = {f"{name}0": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    layer = f"u, j = compress.FBSConv<{FBS}>(x, all, w0, b0, s0, r0)"
    return rewritten(
        f"g (float[1,4,6,2] x) => ({result}) {{ {layer} {body} }}", constants | {"all": np.arange(2)[None]}
    )


@pytest.mark.parametrize(
    ("pool", "result"),
    [
        ("MaxPool<kernel_shape=[2, 2], strides=[2, 2]>", "float[1,2,3,2] y"),
        ("MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>", "float[1,2,3,2] y"),
        ("MaxPool<kernel_shape=[2, 2], dilations=[2, 3]>", "float[1,2,3,2] y"),
    ],
)
def test_a_pool_between_its_transposes_becomes_one_node(rewritten, pool, result):
    case = case_of(rewritten, f"{BEFORE} b = {pool}(a) {AFTER}", result)
    assert fuse_max_pool(case.graph) == 1
    assert case.ops() == ["FBSConv", "MaxPoolNHWC"]
    case.assert_same_numbers()


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (f"{BEFORE} b = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a) y = Neg(b)", "float[1,2,2,3] y"),
        (f"{BEFORE} b = MaxPool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>(a) {AFTER}", "float[1,2,3,2] y"),
        (f'{BEFORE} b = MaxPool<kernel_shape=[2, 2], auto_pad="SAME_UPPER">(a) {AFTER}', "float[1,4,6,2] y"),
        (f"{BEFORE} b = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(a) {AFTER}", "float[1,2,3,2] y"),
        (
            f"{BEFORE} b, i = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a) {AFTER}",
            "float[1,2,3,2] y, int64[1,2,2,3] i",
        ),
    ],
    ids=["dense behind", "rounded up", "pads by name", "average", "indices"],
)
def test_other_pools_stay(rewritten, body, result):
    case = case_of(rewritten, body, result)
    assert fuse_max_pool(case.graph) == 0
    assert "MaxPoolNHWC" not in case.ops()


def test_a_pool_that_others_read_too_stays(rewritten):
    body = f"{BEFORE} b = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a) {AFTER} z = Neg(b)"
    case = case_of(rewritten, body, "float[1,2,3,2] y, float[1,2,2,3] z")
    assert fuse_max_pool(case.graph) == 0
    case.assert_same_numbers()


def test_a_network_without_our_layers_stays_as_it_is(rewritten):
    body = f"{BEFORE.replace('(u)', '(x)')} b = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a) {AFTER}"
    case = rewritten(f"g (float[1,4,6,2] x) => (float[1,2,3,2] y) {{ {body} }}")
    assert fuse_max_pool(case.graph) == 0
