import numpy as np
import pytest
from fbs_reference import FBS

import exporters.passes.store_bytes as module
from exporters import opset
from exporters.passes.fuse_depthwise import fuse_depthwise
from exporters.passes.name_tensors import name_tensors
from exporters.passes.share_means import share_means
from exporters.passes.store_bytes import store_byte_predictors, store_bytes
from exporters.passes.store_halves import store_half_predictors, store_half_weights

STEPS = np.array([0.75, 2.0**-20, 1 + 2.0**-9], np.float32)
NAMES = {"FBSConv": "XIWBARDEUPQ", "FBSConvDepthwise": "XIWBARVSDEUPQ"}


def numbers(rng, *, largest=127):
    """Whole numbers (3, 8), one of each row as large as that."""
    made = rng.integers(-largest, largest + 1, (3, 8))
    made[:, 2] = [largest, -largest, largest]
    return made


def exact(rng, **settings):
    """Weights (3, 8) that are whole numbers times a step for each row."""
    return numbers(rng, **settings).astype(np.float32) * STEPS[:, None]


def case_of(rewritten, *, weight, saliency_weight, shift="", taps=1):
    """An FBS layer of eight channels to three, weights (3, 8) each."""
    rng = np.random.default_rng(1)
    kernel = np.repeat(weight[:, :, None, None], taps * taps, axis=2).reshape(3, 8, taps, taps)
    values = {"w": kernel, "s": saliency_weight.T, "b": rng.normal(size=3), "r": 1 + rng.random(3)}
    values = {name: value.astype(np.float32) for name, value in values.items()} | {"all": np.arange(8)[None]}
    values |= {"d": np.ones(3, np.float32)}
    text = f"g (float[1,4,6,8] x) => (float[1,{5 - taps},{7 - taps},2] y) {{"
    return rewritten(f"{text} y, j = compress.FBSConv<{FBS}>(x, all, w, b, s, r{shift}) }}", values)


def given(node):
    return dict(zip(NAMES[node.op], node.inputs, strict=False))


def stored(case):
    """Types of W and A, and what they stand for: (K, n) each."""
    inputs = given(case.node("FBSConv"))
    rows = {"W": inputs["W"].values.reshape(3, -1), "A": inputs["A"].values.T}
    types = {name: values.dtype for name, values in rows.items()}
    for name, step in (("W", "P"), ("A", "Q")):
        if step in inputs and not inputs[step].is_empty():
            assert inputs[step].values.dtype == np.float32
            assert inputs[step].values.shape == (3,)
            assert (inputs[step].values > 0).all()
            rows[name] = rows[name].astype(np.float32) * inputs[step].values[:, None]
    return types, rows


@pytest.mark.parametrize("shift", ["", ", d"], ids=["plain", "shifted"])
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize(("names", "count"), [("", 0), ("W", 1), ("A", 1), ("WA", 2)], ids=["none", "W", "A", "both"])
def test_weights_become_bytes_where_nothing_is_lost(rewritten, names, count, taps, shift):
    rng = np.random.default_rng(0)
    both = {name: exact(rng) if name in names else rng.normal(size=(3, 8)).astype(np.float32) for name in "WA"}
    case = case_of(rewritten, weight=both["W"], saliency_weight=both["A"], taps=taps, shift=shift)
    assert store_bytes(case.graph) == count
    types, rows = stored(case)
    for name in "WA":
        assert types[name] == (np.int8 if name in names else np.float32)
        wanted = both[name] if name == "A" else np.repeat(both[name], taps * taps, axis=1)
        np.testing.assert_array_equal(rows[name], wanted)
    case.assert_same_numbers()
    assert store_bytes(case.graph) == 0
    assert store_half_predictors(case.graph) == store_half_weights(case.graph) == 0
    case.assert_same_numbers()


def test_predictors_may_become_bytes_alone(rewritten):
    rng = np.random.default_rng(0)
    weights = {name: exact(rng) for name in "WA"}
    case = case_of(rewritten, weight=weights["W"], saliency_weight=weights["A"])
    assert store_byte_predictors(case.graph) == 1
    types, rows = stored(case)
    assert types == {"W": np.float32, "A": np.int8}
    np.testing.assert_array_equal(rows["A"], weights["A"])
    case.assert_same_numbers()


@pytest.mark.parametrize("largest", [1, 2, 77, 126])
def test_bytes_are_found_again_when_the_largest_channels_have_gone(rewritten, largest):
    rng = np.random.default_rng(2)
    weights = exact(rng, largest=largest)
    case = case_of(rewritten, weight=weights, saliency_weight=weights[::-1])
    assert store_bytes(case.graph) == 2
    _, rows = stored(case)
    np.testing.assert_array_equal(rows["W"], weights)
    np.testing.assert_array_equal(rows["A"], weights[::-1])
    case.assert_same_numbers()


def test_outputs_of_zeros_have_a_step(rewritten):
    rng = np.random.default_rng(3)
    weights = exact(rng)
    weights[1] = 0
    case = case_of(rewritten, weight=weights, saliency_weight=np.zeros((3, 8)))
    assert store_bytes(case.graph) == 2
    np.testing.assert_array_equal(stored(case)[1]["W"], weights)
    case.assert_same_numbers()


def another(value):
    def change(weights):
        weights[2, 5] = value
        return weights

    return change


LOST = {
    "one is between two numbers": another(0.3),
    "not a number": another(np.nan),
    "infinite": another(np.inf),
    "steps too small": lambda weights: weights * np.float32(2.0**-110),
    "numbers of nine bits": lambda weights: np.tile(np.arange(248, 256, dtype=np.float32), (3, 1)),
}


@pytest.mark.parametrize("why", LOST)
def test_other_weights_stay(rewritten, why):
    weights = LOST[why](exact(np.random.default_rng(4)))
    case = case_of(rewritten, weight=weights, saliency_weight=weights)
    assert store_bytes(case.graph) == 0
    types, rows = stored(case)
    assert set(types.values()) == {np.dtype(np.float32)}
    np.testing.assert_array_equal(rows["A"], weights)


def test_an_output_of_one_weight_would_not_be_smaller(rewritten):
    values = {"w": np.ones((3, 1, 1, 1)), "s": np.ones((1, 3)), "b": np.zeros(3), "r": np.zeros(3)}
    values = {name: value.astype(np.float32) for name, value in values.items()} | {"all": np.array([[0]])}
    text = f"g (float[1,4,6,1] x) => (float[1,4,6,2] y) {{ y, j = compress.FBSConv<{FBS}>(x, all, w, b, s, r) }}"
    assert store_bytes(rewritten(text, values).graph) == 0


def linear_case(rewritten, after, matrix):
    """An FBS layer of floats, and a linear layer (8, 3) on rows beside it."""
    rng = np.random.default_rng(6)
    shapes = {"w": (3, 2, 1, 1), "b": (3,), "s": (2, 3), "r": (3,)}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    values |= {"m": matrix, "t": matrix.T, "c": np.arange(3)}
    values = {name: value.astype(np.float32) for name, value in values.items()} | {"all": np.arange(2)[None]}
    body = f"y, j = compress.FBSConv<{FBS}>(x, all, w, b, s, r) {after}"
    return rewritten(f"g (float[1,4,6,2] x, float[1,8] v) => (float[1,4,6,2] y, float[1,3] z) {{ {body} }}", values)


@pytest.mark.parametrize(
    ("after", "lower"),
    [
        ("z = Gemm(v, m, c)", -opset.FLOAT_MAX),
        ("z = Gemm<transB=1>(v, t, c)", -opset.FLOAT_MAX),
        ("g = Gemm(v, m, c) z = Relu(g)", 0.0),
    ],
)
def test_a_linear_layer_on_dense_rows_becomes_one_that_reads_bytes(rewritten, after, lower):
    weights = exact(np.random.default_rng(7)).T
    case = linear_case(rewritten, after, weights)
    assert store_bytes(case.graph) == 1
    linear = case.node("Linear")
    assert linear.attrs == {"channels": 8, "lower": lower, "average": 0}
    *_, levels, _, steps = linear.inputs
    assert levels.values.dtype == np.int8
    np.testing.assert_array_equal(levels.values * steps.values, weights)
    case.assert_same_numbers()
    assert store_bytes(case.graph) == store_half_weights(case.graph) == 0


@pytest.mark.parametrize(
    ("after", "value"), [("z = Gemm(v, m, c)", 0.3), ("z = Gemm<alpha=2.0>(v, m, c)", 0.0)], ids=["rounded", "factor"]
)
def test_other_linear_layers_stay(rewritten, after, value):
    weights = exact(np.random.default_rng(7)).T
    weights[5, 1] = value
    case = linear_case(rewritten, after, weights)
    assert store_bytes(case.graph) == 0
    assert "Gemm" in case.ops()


def test_many_weights_are_looked_at_in_parts(rewritten, monkeypatch):
    weights = exact(np.random.default_rng(8)).T
    monkeypatch.setattr(module, "_MOST_AT_A_TIME", 8)
    case = linear_case(rewritten, "z = Gemm(v, m, c)", weights)
    assert store_bytes(case.graph) == 1
    *_, levels, _, steps = case.node("Linear").inputs
    np.testing.assert_array_equal(levels.values * steps.values, weights)


def chained(rewritten, *, names, depthwise):
    """Three of eight channels go into two layers of eight outputs, with `depthwise` a convolution behind each."""
    rng = np.random.default_rng(5)
    weights = rng.integers(-127, 128, (2, 8, 8)).astype(np.float32) / 64
    floats = rng.normal(size=(2, 8, 8)).astype(np.float32)
    kernel, saliency = (values[n] for n, values in enumerate((weights if name in names else floats) for name in "WA"))
    values = {
        "w": kernel[:, :, None, None],
        "s": saliency,
        "b": rng.normal(size=8),
        "r": 1 + rng.random(8),
        "f": rng.normal(size=(8, 1, 3, 3)),
        "g": rng.normal(size=8),
    }
    values |= {"z": np.clip(values["g"], 0, 6)}
    values = {name: value.astype(np.float32) for name, value in values.items()} | {"i": np.array([[0, 2, 3]])}
    window = "strides=[1,1], pads=[1,1,1,1], dilations=[1,1], lower=0.0, upper=6.0, channels=8"
    first = f"t, j = compress.FBSConv<{FBS}>(x, i, w, b, s, r)"
    second = f"v, l = compress.FBSConv<{FBS}>(a, j, w, b, s, r{', , z' if depthwise else ''})"
    between, after = "a = Identity(t)", "c = Identity(v)"
    if depthwise:
        between, after = (
            f"{y} = compress.DepthwiseConv<{window}>({x}, {j}, f, g)" for y, x, j in (("a", "t", "j"), ("c", "v", "l"))
        )
    else:
        second = second.replace("(a,", "(t,")
        between = ""
    text = f"g (float[1,4,6,3] x) => (float[1,4,6,2] c) {{ {first} {between} {second} {after} }}"
    return rewritten(text, values)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("names", ["W", "A", "WA"])
def test_means_and_steps_keep_their_places(rewritten, names, depthwise):
    case = chained(rewritten, names=names, depthwise=depthwise)
    assert store_bytes(case.graph) == 2 * len(names)
    assert fuse_depthwise(case.graph) == 2 * depthwise
    assert share_means(case.graph) == 1
    op = "FBSConvDepthwise" if depthwise else "FBSConv"
    first, second = (given(node) for node in case.graph.nodes if node.op == op)
    for layer in (first, second):
        present = {name for name, tensor in layer.items() if not tensor.is_empty()}
        assert present >= {step for name, step in (("W", "P"), ("A", "Q")) if name in names}
        assert present.isdisjoint({step for name, step in (("W", "P"), ("A", "Q")) if name not in names})
    assert first["U"].is_empty()
    source = next(node for node in case.graph.nodes if node.op == op)
    assert second["U"] is source.outputs[2]
    case.assert_same_numbers()
    assert share_means(case.graph) == 0
    name_tensors(case.graph)
    assert {first[name].name.rpartition(".")[2] for name in "PQ" if name in first and not first[name].is_empty()} == {
        step for name, step in (("W", "weight_steps"), ("A", "saliency_weight_steps")) if name in names
    }
