from dataclasses import replace

import numpy as np
import pytest

from exporters import opset
from exporters.bodies import (
    FBSVariant,
    LinearVariant,
    SumVariant,
    depthwise_conv_body,
    fbs_conv_body,
    fbs_conv_depthwise_body,
    fbs_conv_int8_body,
    linear_body,
    max_pool_nhwc_body,
    to_nhwc_body,
    unpack_add_body,
    unpack_body,
)

PLAIN = FBSVariant(
    one_sample=True,
    dense_input=False,
    all_win=False,
    normalize=False,
    post_shift=True,
    activation="relu",
    nonnegative=True,
    left_out=True,
    measured=True,
    measures=True,
    byte=True,
    byte_weight=True,
)
ON_BYTES = replace(PLAIN, measured=False, measures=False, byte_weight=False)


@pytest.mark.parametrize(
    "function",
    [
        fbs_conv_body(PLAIN),
        fbs_conv_depthwise_body(PLAIN, "clip", 12),
        fbs_conv_int8_body(ON_BYTES),
        fbs_conv_depthwise_body(ON_BYTES, "clip", 12, int8=True),
        unpack_body(),
        unpack_add_body(SumVariant("bounded", packed=True, measured=True)),
        linear_body(LinearVariant("relu", byte_weight=True)),
        depthwise_conv_body("clip"),
        max_pool_nhwc_body(),
        to_nhwc_body(),
    ],
    ids=lambda function: function.name,
)
def test_functions_have_the_names_of_the_table(function):
    op = opset.OPS[function.name]
    assert list(function.input) == [tensor.name for tensor in op.inputs]
    assert list(function.output) == [tensor.name for tensor in op.outputs]
    assert list(function.attribute) == [attribute.name for attribute in op.attributes]
    assert function.domain == opset.DOMAIN
    assert {node.domain for node in function.node} == {""}


def test_largest_float_is_exact():
    assert np.float32(opset.FLOAT_MAX) == np.finfo(np.float32).max == opset.FLOAT_MAX


def test_only_trailing_inputs_are_optional():
    for op in opset.OPS.values():
        optional = [tensor.optional for tensor in op.inputs]
        assert optional == sorted(optional)
