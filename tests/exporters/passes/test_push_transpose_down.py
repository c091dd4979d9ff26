import numpy as np
import pytest

from exporters.passes.push_transpose_down import push_transpose_down

TO_NCHW = "Transpose<perm=[0, 3, 1, 2]>"
TO_NHWC = "Transpose<perm=[0, 2, 3, 1]>"


def transposes(case):
    return [list(node.attrs["perm"]) for node in case.graph.nodes if node.op == "Transpose"]


@pytest.mark.parametrize(
    "middle",
    [
        "b = Relu(a)",
        "low = Constant<value_float=-0.5>() b = Clip(a, low)",
        "b0 = Sigmoid(a) b = Mul(a, b0)",
        "b = Add(a, a)",
        "b = GlobalAveragePool(a)",
        "axes = Constant<value_ints=[-1, -2]>() b = ReduceMean(a, axes)",
        "b = Concat<axis=1>(a, a)",
    ],
)
def test_pair_around_a_channelwise_op_cancels(rewritten, middle):
    case = rewritten(f"g (float[2,4,6,5] x) => (float[2,N,M,K] y) {{ a = {TO_NCHW}(x) {middle} y = {TO_NHWC}(b) }}")
    push_transpose_down(case.graph)
    # The graph's output keeps its name, so one pair may stay right before it; nothing between may.
    kept = [node for node in case.graph.nodes if node.op == "Transpose" and node.outputs[0].outputs]
    assert len(kept) <= 1
    assert all(reader.op == "Transpose" for node in kept for reader in node.outputs[0].outputs)
    case.assert_same_numbers()


@pytest.mark.parametrize("shape", [(5, 1, 1), (1, 5, 1, 1), (1,), ()])
def test_constant_operand_is_turned_once(rewritten, shape):
    case = rewritten(
        f"g (float[2,4,6,5] x) => (float[2,5,4,6] y) {{ a = {TO_NCHW}(x) y = Mul(a, c) }}",
        {"c": np.random.default_rng(0).normal(size=shape).astype(np.float32)},
    )
    assert push_transpose_down(case.graph) == 1
    assert case.ops() == ["Mul", "Transpose"]
    assert case.node("Mul").inputs[0].name == "x"
    case.assert_same_numbers()


def test_sum_of_two_branches_meets_in_nhwc(rewritten):
    case = rewritten(
        f"g (float[2,4,6,5] x, float[2,4,6,5] z) => (float[2,4,6,5] y) {{"
        f" a = {TO_NCHW}(x) b = {TO_NCHW}(z) c = Add(a, b) d = Relu(c) e = {TO_NHWC}(d) y = Neg(e) }}"
    )
    push_transpose_down(case.graph)
    assert case.ops() == ["Add", "Neg", "Relu"]
    case.assert_same_numbers()


def test_other_branch_is_brought_to_nhwc(rewritten):
    case = rewritten(
        f"g (float[2,4,6,5] x, float[2,5,4,6] z) => (float[2,4,6,5] y) {{"
        f" a = {TO_NCHW}(x) c = Add(z, a) d = {TO_NHWC}(c) y = Neg(d) }}"
    )
    push_transpose_down(case.graph)
    assert transposes(case) == [[0, 2, 3, 1]]
    case.assert_same_numbers()


def test_pool_stays_in_nchw_between_one_pair(rewritten):
    case = rewritten(
        f"g (float[2,4,6,5] x) => (float[2,2,3,5] y) {{"
        f" a = {TO_NCHW}(x) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) c = Relu(b) d = {TO_NHWC}(c)"
        f" y = Neg(d) }}"
    )
    push_transpose_down(case.graph)
    assert case.ops() == ["MaxPool", "Neg", "Relu", "Transpose", "Transpose"]
    assert case.node("MaxPool").outputs[0].outputs[0].op == "Transpose"
    assert "exporters.windowed" not in case.node("MaxPool").attrs
    case.assert_same_numbers()


def test_pool_before_a_dense_convolution_gains_no_transpose(rewritten):
    case = rewritten(
        f"g (float[2,4,6,5] x) => (float[2,7,2,3] y) {{"
        f" a = {TO_NCHW}(x) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) y = Conv(b, w) }}",
        {"w": np.random.default_rng(0).normal(size=(7, 5, 1, 1)).astype(np.float32)},
    )
    push_transpose_down(case.graph)
    assert case.ops() == ["Conv", "MaxPool", "Transpose"]
    case.assert_same_numbers()


@pytest.mark.parametrize(
    "middle",
    [
        "shape = Constant<value_ints=[2, -1]>() y = Reshape(b, shape)",
        "y = Flatten(b)",
        "axes = Constant<value_ints=[2, 3]>() y = Squeeze(b, axes)",
    ],
)
def test_only_single_pixels_are_turned_before_flattening(rewritten, middle):
    case = rewritten(f"g (float[2,4,6,5] x) => (float[2,5] y) {{ a = {TO_NCHW}(x) b = GlobalAveragePool(a) {middle} }}")
    push_transpose_down(case.graph)
    assert [node.op for node in case.graph.nodes][:2] == ["ReduceMean", "Transpose"]
    case.assert_same_numbers()


def test_mean_without_dimensions_turns_single_pixels(rewritten):
    case = rewritten(
        f"g (float[2,4,6,5] x) => (float[2,5] y) {{ a = {TO_NCHW}(x) axes = Constant<value_ints=[2, 3]>()"
        f" y = ReduceMean<keepdims=0>(a, axes) }}"
    )
    push_transpose_down(case.graph)
    assert [node.op for node in case.graph.nodes] == ["ReduceMean", "Transpose", "Squeeze"]
    case.assert_same_numbers()


def test_flattening_planes_keeps_its_transpose(rewritten):
    case = rewritten(f"g (float[2,4,6,5] x) => (float[2,120] y) {{ a = {TO_NCHW}(x) y = Flatten(a) }}")
    assert push_transpose_down(case.graph) == 0
    assert case.ops() == ["Flatten", "Transpose"]
