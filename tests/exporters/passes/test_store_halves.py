import numpy as np
import onnx_graphsurgeon as gs
import pytest
from fbs_reference import FBS

from exporters import opset
from exporters.passes.store_halves import store_half_predictors, store_half_weights

EXACT = np.array([[0.5, -1.25, 3.0], [0.0, 65504.0, 6.103515625e-05]])
ROUNDED = np.array([[0.5, -1.25, 3.0], [0.0, 65504.0, 0.1]])  # 0.1 would be rounded
TOO_LARGE = np.array([[0.5, -1.25, 3.0], [0.0, 1e5, 0.25]])

matrices = pytest.mark.parametrize(
    ("matrix", "stored"), [(EXACT, 1), (ROUNDED, 0), (TOO_LARGE, 0)], ids=["exact", "rounded", "too large"]
)


def case_of(rewritten, after, outputs, *, saliency_weight=None, weight=None, **constants):
    """An FBS layer of two channels to three, and what reads its planes y."""
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 2, 1, 1), "b": (3,), "s": (2, 3), "r": (3,)}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    values |= {} if saliency_weight is None else {"s": saliency_weight}
    values |= {} if weight is None else {"w": weight.T[:, :, None, None]}
    values = {name: value.astype(np.float32) for name, value in (values | constants).items()}
    body = f"u, j = compress.FBSConv<{FBS}>(x, all, w, b, s, r) {after}"
    text = f"g (float[1,4,6,2] x, float[1,2] v) => ({outputs}) {{ {body} }}"
    return rewritten(text, values | {"all": np.arange(2)[None]})


def types(case, op):
    return {name: tensor.dtype for name, tensor in zip("XIWBAR", case.node(op).inputs, strict=False)}


@matrices
def test_predictors_become_halves_where_nothing_is_lost(rewritten, matrix, stored):
    case = case_of(rewritten, "y = Identity(u)", "float[1,4,6,2] y", saliency_weight=matrix)
    assert store_half_predictors(case.graph) == stored
    assert types(case, "FBSConv")["A"] == (np.float16 if stored else np.float32)
    assert types(case, "FBSConv")["W"] == np.float32
    case.assert_same_numbers()


@matrices
def test_kernels_become_halves_where_nothing_is_lost(rewritten, matrix, stored):
    case = case_of(rewritten, "y = Identity(u)", "float[1,4,6,2] y", weight=matrix)
    assert store_half_weights(case.graph) == stored
    assert types(case, "FBSConv")["W"] == (np.float16 if stored else np.float32)
    assert types(case, "FBSConv")["A"] == np.float32
    case.assert_same_numbers()


@pytest.mark.parametrize(
    ("after", "lower"),
    [
        ("z = Gemm(v, m, c) y = Identity(u)", -opset.FLOAT_MAX),
        ("z = Gemm<transB=1>(v, t, c) y = Identity(u)", -opset.FLOAT_MAX),
        ("g = Gemm(v, m, c) z = Relu(g) y = Identity(u)", 0.0),
        ("z = Gemm(v, m) y = Identity(u)", -opset.FLOAT_MAX),
    ],
)
def test_a_linear_layer_on_dense_rows_becomes_one_that_reads_halves(rewritten, after, lower):
    case = case_of(rewritten, after, "float[1,4,6,2] y, float[1,3] z", m=EXACT, t=EXACT.T, c=np.ones(3))
    assert store_half_weights(case.graph) == 2  # one became a Linear, whose weights became halves
    assert case.node("Linear").attrs == {"channels": 2, "lower": lower, "average": 0}
    assert types(case, "Linear")["W"] == np.float16
    case.assert_same_numbers()


@pytest.mark.parametrize(
    ("after", "matrix"),
    [
        ("z = Gemm(v, m, c) y = Identity(u)", ROUNDED),
        ("z = Gemm<alpha=2.0>(v, m, c) y = Identity(u)", EXACT),
        ("a = Transpose(v) z = Gemm<transA=1>(a, m, c) y = Identity(u)", EXACT),
        ("z = Gemm(v, m, w2) y = Identity(u)", EXACT),
    ],
    ids=["rounded", "factor", "transposed", "another bias"],
)
def test_other_linear_layers_stay(rewritten, after, matrix):
    case = case_of(rewritten, after, "float[1,4,6,2] y, float[1,3] z", m=matrix, c=np.ones(3), w2=np.ones((1, 3)))
    assert store_half_weights(case.graph) == 0
    assert "Gemm" in case.ops()
    case.assert_same_numbers()


def test_a_network_without_our_layers_stays_as_it_is(rewritten):
    case = rewritten("g (float[1,2] v) => (float[1,3] z) { z = Gemm(v, m) }", {"m": EXACT.astype(np.float32)})
    assert store_half_weights(case.graph) == 0
    assert [node.op for node in case.graph.nodes] == ["Gemm"]
    assert isinstance(case.graph, gs.Graph)
