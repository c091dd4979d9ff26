import fbs_reference as reference
import numpy as np
import onnx
import onnxruntime
import pytest

from exporters import opset
from exporters.errors import ExportError
from exporters.functions import attach_functions

RELATIVE = 2e-6  # float32 sums in another order


def stock(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def layer(rng, *, channels=8, outputs=12, taps=3, post_shift=False):
    constants = {
        "W": rng.normal(size=(outputs, channels, taps, taps)),
        "B": rng.normal(size=outputs),
        "A": rng.normal(size=(channels, outputs)),
        "R": rng.normal(size=outputs) + 1,
    }
    if post_shift:
        constants["D"] = rng.normal(size=outputs)
    return {name: value.astype(np.float32) for name, value in constants.items()}


STEPS = {"W": ("P", 0), "A": ("Q", 1)}


def in_bytes(constants, names):
    """These weights as bytes, their steps at the end; None for optional inputs that are left out before these."""
    if not names:
        return constants
    made, steps = dict(constants), dict.fromkeys("PQ" if "A" in names else "P")
    for name in names:
        step_name, axis = STEPS[name]
        others = tuple(other for other in range(made[name].ndim) if other != axis)
        step = np.abs(made[name]).max(axis=others, keepdims=True) / np.float32(127)
        made[name] = np.rint(made[name] / step).astype(np.int8)
        steps[step_name] = step.ravel()
    return made | {name: made.pop(name, None) for name in "DEU"} | steps


def in_floats(constants):
    """What these constants stand for."""
    made = {name: None if value is None else value.astype(np.float32) for name, value in constants.items()}
    if made.pop("P", None) is not None:
        made["W"] = made["W"] * constants["P"][:, None, None, None]
    if made.pop("Q", None) is not None:
        made["A"] = made["A"] * constants["Q"]
    return made


def packed_input(rng, batch, live, *, channels=8, size=(7, 5)):
    x = rng.normal(size=(batch, *size, live)).astype(np.float32)
    indices = np.stack([np.sort(rng.permutation(channels)[:live]) for _ in range(batch)])
    return x, indices


CASES = {
    "plain": {},
    "strided": {"strides": [2, 2], "pads": [0, 1, 1, 0]},
    "dilated": {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    "relu6": {"upper": 6.0},
    "unclamped": dict(opset.NO_CLAMP),
    "signed": {"saliency_slope": 1.0, "lower": -opset.FLOAT_MAX},
    "leaky": {"saliency_slope": 0.1},
    "normalized": {"normalize": 1},
    "blocks": {"winner_block": 4},
    "blocks, the last small": {"winner_block": 5, "winners": 7},
    "blocks, all win": {"winner_block": 4, "winners": 12},
    "all win": {"winners": 12},
    "one wins": {"winners": 1},
    "shifted": {"post_shift": True},
    "pointwise": {"taps": 1, "pads": [0, 0, 0, 0]},
    "pointwise, strided, blocks": {"taps": 1, "pads": [0, 0, 0, 0], "strides": [2, 2], "winner_block": 4},
    "pointwise, all win": {"taps": 1, "pads": [0, 0, 0, 0], "winners": 12},
    "predictor of 16 bits": {"half": "A"},
    "kernels of 16 bits": {"half": "W"},
    "kernels of 16 bits, pointwise": {"half": "WA", "taps": 1, "pads": [0, 0, 0, 0]},
    "kernels of 16 bits, all win": {"half": "W", "winners": 12},
    "predictor of 8 bits": {"bytes": "A"},
    "kernels of 8 bits": {"bytes": "W"},
    "8 bits, shifted": {"bytes": "WA", "post_shift": True},
    "8 bits, pointwise": {"bytes": "WA", "taps": 1, "pads": [0, 0, 0, 0]},
    "8 bits, pointwise, all win": {"bytes": "WA", "taps": 1, "pads": [0, 0, 0, 0], "winners": 12},
    "8 bits, all win": {"bytes": "WA", "winners": 12},
    "kernels of 8 bits, predictor of 16": {"half": "A", "bytes": "W"},
}


@pytest.mark.parametrize("batch", [1, 3, "N"])
@pytest.mark.parametrize("dense", [False, True], ids=["packed", "dense"])
@pytest.mark.parametrize("case", CASES)
def test_body_equals_definition(case, dense, batch):
    rng = np.random.default_rng(0)
    changes = {"winners": 6} | CASES[case]
    constants = layer(rng, taps=changes.pop("taps", 3), post_shift=changes.pop("post_shift", False))
    for name in changes.pop("half", ""):
        constants[name] = constants[name].astype(np.float16)
    constants = in_bytes(constants, changes.pop("bytes", ""))
    attributes = reference.fbs_attributes(**changes)
    x, indices = packed_input(rng, 3 if batch == "N" else batch, 8 if dense else 5)
    indices = np.arange(8)[None] if dense else indices
    model = reference.one_node_model(
        "FBSConv", x.shape[1:], indices if dense else None, constants, attributes, batch=batch
    )
    onnx.checker.check_model(model, full_check=True)
    y, j = stock(model, {"X": x} if dense else {"X": x, "I": indices})
    floats = in_floats(constants)
    wanted, winners = reference.fbs_conv(x, indices, *(floats[name] for name in "WBAR"), floats.get("D"), **attributes)
    np.testing.assert_array_equal(j, winners)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=RELATIVE * max(1.0, np.abs(wanted).max()))


RELU6 = {"lower": 0.0, "upper": 6.0}
FUSED_CASES = {
    "pointwise": {"taps": 1, "pads": [0, 0, 0, 0], **RELU6, "depthwise": RELU6},
    "pointwise, strided behind": {"taps": 1, "pads": [0, 0, 0, 0], "depthwise": {"strides": [2, 2], "lower": 0.0}},
    "3x3": {"depthwise": RELU6},
    "3x3, strided twice": {"strides": [2, 2], "pads": [0, 1, 1, 0], "depthwise": {"strides": [2, 1], **RELU6}},
    "dilated behind": {"depthwise": {"dilations": [2, 1], "pads": [2, 0, 1, 2]}},
    "unclamped": {**opset.NO_CLAMP, "depthwise": {}},
    "shifted": {"more": "D", "depthwise": RELU6},
    "left out": {"more": "dE", "depthwise": RELU6},
    "shifted, left out": {"more": "DE", "taps": 1, "pads": [0, 0, 0, 0], "depthwise": RELU6},
    "blocks": {"winner_block": 4, "depthwise": RELU6},
    "all win": {"winners": 12, "depthwise": RELU6},
    "16 bits": {"half": "WA", "depthwise": RELU6},
    "8 bits": {"bytes": "WA", "depthwise": RELU6},
    "8 bits, left out": {"more": "dE", "bytes": "WA", "depthwise": RELU6},
}


@pytest.mark.parametrize("batch", [1, 3, "N"])
@pytest.mark.parametrize("dense", [False, True], ids=["packed", "dense"])
@pytest.mark.parametrize("case", FUSED_CASES)
def test_fused_body_equals_two_nodes(case, dense, batch):
    rng = np.random.default_rng(8)
    changes = {"winners": 6} | FUSED_CASES[case]
    constants = layer(rng, taps=changes.pop("taps", 3))
    filters = {"V": rng.normal(size=(12, 1, 3, 3)).astype(np.float32), "S": rng.normal(size=12).astype(np.float32)}
    shifts = {"D": rng.normal(size=12).astype(np.float32), "E": rng.normal(size=8).astype(np.float32)}
    more = {name.upper(): shifts.get(name) for name in changes.pop("more", "")}  # d: D is left out
    for name in changes.pop("half", ""):
        constants[name] = constants[name].astype(np.float16)
    constants = in_bytes(constants | more, changes.pop("bytes", ""))
    tail = {name: constants.pop(name) for name in "DEUPQ" if name in constants}
    behind = reference.depthwise_attributes(**changes.pop("depthwise"))
    attributes = reference.fbs_attributes(**changes)
    x, indices = packed_input(rng, 3 if batch == "N" else batch, 8 if dense else 5)
    index = np.arange(8)[None] if dense else None
    feeds = {"X": x} if dense else {"X": x, "I": indices}

    fbs = reference.one_node_model("FBSConv", x.shape[1:], index, constants | tail, attributes, batch=batch)
    between, winners = stock(fbs, feeds)
    depthwise = reference.one_node_model(
        "DepthwiseConv", between.shape[1:], None, filters, behind | {"channels": 12}, batch=batch
    )
    (wanted,) = stock(depthwise, {"X": between, "I": winners})
    fused = reference.one_node_model(
        "FBSConvDepthwise",
        x.shape[1:],
        index,
        constants | filters | tail,
        attributes | {f"depthwise_{name}": value for name, value in behind.items()},
        batch=batch,
    )
    onnx.checker.check_model(fused, full_check=True)
    y, j = stock(fused, feeds)
    np.testing.assert_array_equal(j, winners)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=RELATIVE * np.abs(wanted).max())


INT8_CASES = {
    "3x3": {},
    "pointwise, strided behind": {"taps": 1, "pads": [0, 0, 0, 0], "behind": {"strides": [2, 2], "lower": 0.0}},
    "strided, dilated behind": {"strides": [2, 1], "behind": {"dilations": [2, 1], "pads": [2, 0, 1, 2]}},
    "unclamped": dict(opset.NO_CLAMP),
    "predictor of 32 bits": {"predictor": np.float32},
    "predictor of 16 bits": {"predictor": np.float16, "more": "D"},
    "shifted": {"more": "D", "behind": RELU6},
    "left out": {"more": "E", "behind": RELU6},
    "shifted, left out": {"more": "DE", "predictor": np.float32, "taps": 1, "pads": [0, 0, 0, 0], "behind": RELU6},
    "normalized, blocks": {"normalize": 1, "winner_block": 4},
    "all win": {"winners": 12, "more": "E", "behind": RELU6},
}


@pytest.mark.parametrize("batch", [1, 3, "N"])
@pytest.mark.parametrize("dense", [False, True], ids=["packed", "dense"])
@pytest.mark.parametrize("fused", [False, True], ids=["alone", "depthwise"])
@pytest.mark.parametrize("case", INT8_CASES)
def test_body_on_bytes_equals_definition(case, fused, dense, batch):
    rng = np.random.default_rng(10)
    changes = {"winners": 6, "upper": 6.0} | INT8_CASES[case]
    constants = layer(rng, taps=changes.pop("taps", 3), post_shift=True)
    behind = reference.depthwise_attributes(**changes.pop("behind", {}))
    predictor, more = changes.pop("predictor", np.int8), changes.pop("more", "")
    attributes = reference.fbs_attributes(**changes)
    step, zero = 0.03, 90
    floats, indices = packed_input(rng, 3 if batch == "N" else batch, 8 if dense else 5)
    indices = np.broadcast_to(np.arange(8), (len(floats), 8)) if dense else indices
    x = reference.to_bytes(floats, step, zero)

    constants["W"] *= 0.1  # few values are clamped
    constants["A"] *= 0.3
    constants["D"] = constants["D"] if "D" in more else None
    constants["E"] = rng.integers(-30, 200, size=8).astype(np.int32) if "E" in more else None
    whole = in_bytes({name: constants[name] for name in "WA"}, "WA")
    constants["W"], constants["S"] = whole["W"], whole["P"]
    constants["A"] = whole["A"] if predictor is np.int8 else constants["A"].astype(predictor)
    constants["Q"] = whole["Q"] if predictor is np.int8 else None
    constants["V"] = rng.integers(-127, 128, size=(12, 1, 3, 3)).astype(np.int8)
    constants["G"] = rng.uniform(0.001, 0.01, size=12).astype(np.float32)
    constants["F"] = rng.normal(size=12).astype(np.float32)

    weight, filters = (constants[name] * constants[by].reshape(-1, 1, 1, 1) for name, by in ("WS", "VG"))
    saliency_weight = constants["A"].astype(np.float32) * (1 if constants["Q"] is None else constants["Q"])
    left_out = 0 if constants["E"] is None else np.float32(step) * constants["E"]
    given = weight, constants["B"], saliency_weight, constants["R"], constants["D"], left_out
    wanted, winners = reference.fbs_conv(reference.to_floats(x, step, zero), indices, *given, **attributes)
    attributes |= {"x_step": step, "x_zero": zero}
    if fused:
        scale = reference.scale_of(wanted)
        between = reference.to_floats(reference.to_bytes(wanted, *scale), *scale)
        wanted = reference.depthwise_conv(between, winners, filters, constants["F"], **behind)
        attributes |= {f"depthwise_{name}": value for name, value in behind.items()}
        attributes |= {"between_step": scale[0], "between_zero": scale[1]}
    y_step, y_zero = reference.scale_of(wanted)
    op = opset.FBS_CONV_DEPTHWISE_INT8 if fused else opset.FBS_CONV_INT8
    model = reference.one_node_model(
        op.name,
        x.shape[1:],
        np.arange(8)[None] if dense else None,
        {tensor.name: constants[tensor.name] for tensor in op.inputs[2:]},
        attributes | {"y_step": y_step, "y_zero": y_zero},
        batch=batch,
    )
    onnx.checker.check_model(model, full_check=True)
    y, j = stock(model, {"X": x} if dense else {"X": x, "I": indices})
    np.testing.assert_array_equal(j, winners)
    differences = np.abs(y.astype(int) - reference.to_bytes(wanted, y_step, y_zero))
    assert differences.max() <= 1, "where a value lies halfway between two"
    assert differences.mean() <= 0.01
    assert len(np.unique(y)) > 10


@pytest.mark.parametrize("batch", [1, "N"])
def test_one_constant_row_of_indices_serves_all_samples(batch):
    rng = np.random.default_rng(1)
    constants, attributes = layer(rng), reference.fbs_attributes(winners=4)
    x, indices = packed_input(rng, 1 if batch == 1 else 3, 5)
    indices = indices[:1]
    model = reference.one_node_model("FBSConv", x.shape[1:], indices, constants, attributes, batch=batch)
    y, j = stock(model, {"X": x})
    wanted, winners = reference.fbs_conv(x, indices, *(constants[name] for name in "WBAR"), **attributes)
    np.testing.assert_array_equal(j, winners)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=RELATIVE * np.abs(wanted).max())


@pytest.mark.parametrize("batch", [1, 2])
def test_ties_go_to_the_lower_index(batch):
    rng = np.random.default_rng(2)
    constants = layer(rng)
    constants["A"][:] = 0
    constants["R"][:] = [1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    x, indices = packed_input(rng, batch, 5)
    model = reference.one_node_model(
        "FBSConv", x.shape[1:], None, constants, reference.fbs_attributes(winners=5), batch=batch
    )
    _, j = stock(model, {"X": x, "I": indices})
    np.testing.assert_array_equal(j, [[0, 1, 2, 3, 4]] * batch)


@pytest.mark.parametrize("batch", [1, "N"])
def test_saliencies_that_sum_to_zero_are_not_normalized(batch):
    constants, attributes = layer(np.random.default_rng(6)), reference.fbs_attributes(winners=4, normalize=1)
    constants["R"][:] = -1
    x, indices = np.zeros((1, 7, 5, 5), np.float32), np.arange(5)[None]
    model = reference.one_node_model("FBSConv", x.shape[1:], None, constants, attributes, batch=batch)
    y, j = stock(model, {"X": x, "I": indices})
    np.testing.assert_array_equal(j, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(y, np.zeros((1, 7, 5, 4)))


@pytest.mark.parametrize("batch", [1, "N"])
def test_nan_does_not_crash(batch):
    constants, attributes = layer(np.random.default_rng(7)), reference.fbs_attributes(winners=4)
    x, indices = np.full((1, 7, 5, 5), np.nan, np.float32), np.arange(5)[None]
    model = reference.one_node_model("FBSConv", x.shape[1:], None, constants, attributes, batch=batch)
    y, _ = stock(model, {"X": x, "I": indices})
    assert y.shape == (1, 7, 5, 4)


@pytest.mark.parametrize("batch", [1, 3, "N"])
@pytest.mark.parametrize("constant", [False, True])
def test_unpack_body_equals_definition(batch, constant):
    rng = np.random.default_rng(3)
    x, indices = packed_input(rng, 3 if batch == "N" else batch, 5, channels=9)
    indices = indices[:1] if constant else indices
    model = reference.one_node_model(
        "Unpack", x.shape[1:], indices if constant else None, {}, {"channels": 9}, batch=batch
    )
    onnx.checker.check_model(model, full_check=True)
    (y,) = stock(model, {"X": x} if constant else {"X": x, "I": indices})
    np.testing.assert_array_equal(y, reference.unpack(x, indices, 9))


def test_nodes_of_one_variant_share_one_function():
    rng = np.random.default_rng(4)
    model = reference.one_node_model(
        "FBSConv", (4, 4, 8), np.arange(8)[None], layer(rng), reference.fbs_attributes(), batch=1
    )
    again = attach_functions(model)
    assert [function.overload for function in again.functions] == ["one_dense_relu"]
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda node: node.attribute.pop(), r"lacks the attributes winners"),
        (lambda node: node.input.pop(), r"has 5 inputs; allowed are 6 to 11"),
        (lambda node: setattr(node, "op_type", "Conv9"), r"compress.Conv9\) is unknown"),
    ],
)
def test_wrong_node_is_refused(change, message):
    rng = np.random.default_rng(5)
    model = reference.one_node_model(
        "FBSConv", (4, 4, 8), np.arange(8)[None], layer(rng), reference.fbs_attributes(), batch=1
    )
    change(model.graph.node[0])
    with pytest.raises(ExportError, match=message):
        attach_functions(model)


@pytest.mark.parametrize(
    ("name", "message"), [("P", "W is int8 just where there is P"), ("Q", "A is int8 just where there is Q")]
)
@pytest.mark.parametrize("bytes_", [False, True])
def test_bytes_and_their_steps_come_together(name, message, bytes_):
    constants = in_bytes(layer(np.random.default_rng(9)), "WA")
    if bytes_:
        constants[name] = None
    else:
        floats = in_floats(constants)
        constants |= {weight: floats[weight] for weight, (step, _) in STEPS.items() if step == name}
    with pytest.raises(ExportError, match=message):
        reference.one_node_model("FBSConv", (4, 4, 8), None, constants, reference.fbs_attributes(), batch=1)
