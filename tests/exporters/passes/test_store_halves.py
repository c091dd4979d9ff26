import numpy as np
import pytest
from fbs_reference import FBS

from exporters.passes.store_halves import store_halves


@pytest.mark.parametrize(
    ("saliency_weight", "stored"),
    [
        (np.array([[0.5, -1.25, 3.0], [0.0, 65504.0, 6.103515625e-05]]), 1),
        (np.array([[0.5, -1.25, 3.0], [0.0, 65504.0, 0.1]]), 0),  # 0.1 would be rounded
        (np.array([[0.5, -1.25, 3.0], [0.0, 1e5, 0.25]]), 0),  # beyond the largest
    ],
    ids=["exact", "rounded", "too large"],
)
def test_predictors_become_halves_where_nothing_is_lost(rewritten, saliency_weight, stored):
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 2, 1, 1), "b": (3,), "r": (3,)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"s": saliency_weight.astype(np.float32), "all": np.arange(2)[None]}
    body = f"y, j = compress.FBSConv<{FBS}>(x, all, w, b, s, r)"
    case = rewritten(f"g (float[1,4,6,2] x) => (float[1,4,6,2] y) {{ {body} }}", constants)
    assert store_halves(case.graph) == stored
    assert case.graph.nodes[0].inputs[4].dtype == (np.float16 if stored else np.float32)
    case.assert_same_numbers()
