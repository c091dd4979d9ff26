import numpy as np
import pytest
from fbs_reference import FBS

from exporters.passes.push_transpose_down import push_transpose_down
from exporters.passes.push_unpack_down import push_unpack_down

PLACES = {"i": np.array([[0, 2, 3]])}


def graph(middle, result="float[2,4,6,7]"):
    return (
        f"g (float[2,4,6,3] x) => ({result} y) <float[2,4,6,7] u> {{ u = compress.Unpack<channels=7>(x, i) {middle} }}"
    )


@pytest.mark.parametrize(
    "middle",
    [
        "y = Relu(u)",
        "low = Constant<value_float=-1.0>() high = Constant<value_float=2.0>() y = Clip(u, low, high)",
        "v = Tanh(u) y = Neg(v)",
    ],
)
def test_zero_keeping_ops_work_on_packed_planes(rewritten, middle):
    case = rewritten(graph(middle), PLACES)
    assert push_unpack_down(case.graph) >= 1
    assert case.graph.nodes[-1].op == "Unpack"
    case.assert_same_numbers()


@pytest.mark.parametrize(
    "middle",
    ["y = Sigmoid(u)", "y = Add(u, u)", "low = Constant<value_float=0.5>() y = Clip(u, low)"],
)
def test_ops_that_do_not_keep_zero_stop_it(rewritten, middle):
    case = rewritten(graph(middle), PLACES)
    assert push_unpack_down(case.graph) == 0


def test_reduction_over_the_plane_works_on_packed_planes(rewritten):
    middle = "axes = Constant<value_ints=[1, 2]>() y = ReduceMean<keepdims=1>(u, axes)"
    case = rewritten(graph(middle, "float[2,1,1,7]"), PLACES)
    push_unpack_down(case.graph)
    assert case.node("ReduceMean").inputs[0].name == "x"
    case.assert_same_numbers()


def test_pool_between_transposes_works_on_packed_planes(rewritten):
    case = rewritten(
        graph(
            "a = Transpose<perm=[0, 3, 1, 2]>(u) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)"
            " y = Transpose<perm=[0, 2, 3, 1]>(b)",
            "float[2,2,3,7]",
        ),
        PLACES,
    )
    push_unpack_down(case.graph)
    assert [node.op for node in case.graph.nodes] == ["Transpose", "MaxPool", "Transpose", "Unpack"]
    assert case.node("MaxPool").outputs[0].shape == [2, 3, 2, 3]
    case.assert_same_numbers()


def test_each_reader_is_served_on_its_own(rewritten):
    case = rewritten(graph("a = Relu(u) b = Sigmoid(u) y = Add(a, b)"), PLACES)
    push_unpack_down(case.graph)
    assert case.ops() == ["Add", "Relu", "Sigmoid", "Unpack", "Unpack"]
    case.assert_same_numbers()


def fbs_constants(**more):
    generator = np.random.default_rng(1)
    shapes = {"w": (5, 7, 1, 1), "b": (5,), "s": (7, 5), "r": (5,)}
    constants = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return constants | PLACES | {"all": np.arange(7)[None]} | more


def test_fbs_layer_that_takes_all_channels_takes_the_packed_ones(rewritten):
    text = graph(f"y, j = compress.FBSConv<{FBS}>(u, all, w, b, s, r)", "float[2,4,6,2]")
    case = rewritten(text, fbs_constants())
    push_unpack_down(case.graph)
    assert case.ops() == ["FBSConv"]
    assert [tensor.name for tensor in case.graph.nodes[0].inputs[:2]] == ["x", "i"]
    case.assert_same_numbers()


def test_fbs_layer_that_takes_others_keeps_its_unpack(rewritten):
    text = graph(f"y, j = compress.FBSConv<{FBS}>(u, all, w, b, s, r)", "float[2,4,6,2]")
    case = rewritten(text, fbs_constants(all=np.array([[0, 1, 2, 3, 4, 6, 5]])))
    assert push_unpack_down(case.graph) == 0


def test_unpack_of_all_channels_goes(rewritten):
    case = rewritten(
        "g (float[2,4,6,3] x) => (float[2,4,6,3] y) <float[2,4,6,3] u> {"
        " u = compress.Unpack<channels=3>(x, i) y = Neg(u) }",
        {"i": np.array([[0, 1, 2]])},
    )
    push_unpack_down(case.graph)
    assert case.ops() == ["Neg"]


def test_a_graph_output_stays_unpacked(rewritten):
    case = rewritten(
        "g (float[2,4,6,3] x) => (float[2,4,6,7] u, float[2,4,6,7] y) {"
        " u = compress.Unpack<channels=7>(x, i) y = Relu(u) }",
        PLACES,
    )
    push_unpack_down(case.graph)
    push_transpose_down(case.graph)
    assert case.ops() == ["Relu", "Unpack", "Unpack"]
    case.assert_same_numbers()
