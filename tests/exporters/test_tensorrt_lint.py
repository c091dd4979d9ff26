"""Each rule of the lint finds what it is for, says where, and leaves good graphs alone."""

import numpy as np
import onnx
import pytest

from exporters.tensorrt_lint import lint_tensorrt, tensorrt_table


def model(body, *, inputs="float[1,4,6,6] x", outputs="float[1,4,6,6] y", opset=25, **constants):
    made = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )
    for node in made.graph.node:
        node.name = f"the {node.op_type}"
    for name, value in constants.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return made


GOOD = {
    "convolution": model("y = Relu(x)"),
    "indices as indices": model(
        "v, i = TopK<axis=1>(x, k) y = GatherElements<axis=1>(x, i)", outputs="float[1,2,6,6] y", k=[2]
    ),
    "arithmetic on shapes": model("s = Shape(x) t = Mul(s, two) y = Expand(x, s)", two=[2, 2, 2, 2]),
    "open batch": model("y = Relu(x)", inputs="float[batch,4] x", outputs="float[batch,4] y"),
    "symmetric pair": model(
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", s=np.float32(0.1), z=np.int8(0)
    ),
}
BAD = {
    "unknown op": (model("y = Det(x)", outputs="float[1,4] y"), r"node 'the Det' \(Det\): not an op of TensorRT"),
    "our own op": (model("y = acme.Unpack(x)"), r"\(acme\.Unpack\): not an op"),
    "element type": (
        model("y = Sigmoid(x)", inputs="double[1,4] x", outputs="double[1,4] y"),
        "its input has type DOUBLE; allowed are FLOAT, FLOAT16, BFLOAT16",
    ),
    "large k": (
        model("y, i = TopK(x, k)", inputs="float[1,5000] x", outputs="float[1,4000] y", k=[4000]),
        "k is 4000; it must be below 3840",
    ),
    "computed k": (
        model(
            "y, i = TopK(x, k)", inputs="float[1,50] x, int64[1] k", outputs="float[1,4] y"
        ),
        "input 1 is computed; it must be an initializer",
    ),
    "antialias": (
        model("y = Resize<mode=\"linear\", antialias=1>(x, , , n)", n=[1, 4, 6, 6]),
        "antialias is 1; allowed: 0",
    ),
    "cubic": (model('y = Resize<mode="cubic">(x, , , n)', n=[1, 4, 6, 6]), "mode is cubic"),
    "dilated pool": (
        model("y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)", outputs="float[1,4,4,4] y"),
        "dilations",
    ),
    "pool with indices": (
        model("y, i = MaxPool<kernel_shape=[2,2]>(x)", outputs="float[1,4,5,5] y"),
        "more outputs than the first",
    ),
    "zero point": (
        model("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", s=np.float32(0.1), z=np.int8(3)),
        "its zero point is not 0",
    ),
    "unsigned": (
        model("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", s=np.float32(0.1), z=np.uint8(0)),
        "quantises to UINT8",
    ),
    "arithmetic on indices": (
        model("v, i = TopK<axis=1>(x, k) j = Mul(i, i) y = GatherElements<axis=1>(x, j)",
              outputs="float[1,2,6,6] y", k=[2]),
        r"node 'the Mul' \(Mul\): computes with int64 values",
    ),
    "shape from values": (
        model("i = NonZero(x) f = Cast<to=1>(i) y = Relu(f)", outputs="float[4,n] y"),
        "the shape of its output depends on values",
    ),
    "open picture": (
        model("y = Relu(x)", inputs="float[n,3,h,w] x", outputs="float[n,3,h,w] y"),
        "input 'x' leaves more than its first dimension open",
    ),
    "too new": (model("y = Relu(x)", opset=26), "opset 26 is outside 9 to 25"),
    "in a branch": (
        model(
            "c = Constant<value = bool {1}>() y = If<then_branch = a () => (float[1,4] t) { t = Det(x) }, "
            "else_branch = b () => (float[1,4] e) { e = Det(x) }>(c)",
            outputs="float[1,4] y",
        ),
        r"\(Det\): not an op",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_graphs_are_left_alone(name):
    assert lint_tensorrt(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_each_problem_is_named(name):
    made, message = BAD[name]
    problems = lint_tensorrt(made)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("; ".join(problems))


def test_all_problems_are_listed():
    made = model("a = Det(x) y = acme.Other(a)", outputs="float[1,4] y")
    assert len(lint_tensorrt(made)) == 2


def test_the_table_is_consistent():
    table = tensorrt_table()
    names = [name for group in table["ops"].values() for name in group]
    assert len(names) == len(set(names))
    assert set(table["ops"]) == set(table["types"])
    assert set(table["constant_inputs"]) | set(table["attributes"]) <= set(names)
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert set(names) - known <= {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}, "old experimental ops"
