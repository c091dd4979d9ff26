import numpy as np
import pytest

from exporters.passes.fold_batch_norm import fold_batch_norm

RNG = np.random.default_rng(0)


def constants(channels=6, **more):
    statistics = {name: RNG.normal(size=channels) for name in ("scale", "shift", "mean")}
    statistics["var"] = RNG.uniform(0.5, 2.0, size=channels)
    return {name: np.asarray(value, np.float32) for name, value in (statistics | more).items()}


NORM = "y = BatchNormalization<epsilon=0.01>(c, scale, shift, mean, var)"


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("Conv(x, w)", {"w": RNG.normal(size=(6, 4, 3, 3))}),
        ("Conv(x, w, b)", {"w": RNG.normal(size=(6, 4, 3, 3)), "b": RNG.normal(size=6)}),
        ("Conv<group=2>(x, w)", {"w": RNG.normal(size=(6, 2, 3, 3))}),
    ],
)
def test_folds_into_a_convolution(rewritten, layer, weights):
    case = rewritten(f"g (float[2,4,5,5] x) => (float[2,6,3,3] y) {{ c = {layer} {NORM} }}", constants(**weights))
    assert fold_batch_norm(case.graph) == 1
    assert case.ops() == ["Conv"]
    case.assert_same_numbers()


@pytest.mark.parametrize(
    ("attributes", "shape"), [("", (4, 6)), ("<transB=1>", (6, 4)), ("<alpha=0.5, beta=2.0>", (4, 6))]
)
def test_folds_into_a_linear_layer(rewritten, attributes, shape):
    case = rewritten(
        f"g (float[2,4] x) => (float[2,6] y) {{ c = Gemm{attributes}(x, w, b) {NORM} }}",
        constants(w=RNG.normal(size=shape), b=RNG.normal(size=6)),
    )
    assert fold_batch_norm(case.graph) == 1
    assert case.ops() == ["Gemm"]
    case.assert_same_numbers()


def test_an_output_that_others_read_stays(rewritten):
    case = rewritten(
        f"g (float[2,4,5,5] x) => (float[2,6,3,3] y, float[2,6,3,3] z) {{ c = Conv(x, w) {NORM} z = Relu(c) }}",
        constants(w=RNG.normal(size=(6, 4, 3, 3))),
    )
    assert fold_batch_norm(case.graph) == 0
    assert case.ops() == ["BatchNormalization", "Conv", "Relu"]


def test_computed_weights_stay(rewritten):
    case = rewritten(
        f"g (float[2,4,5,5] x, float[6,4,3,3] w) => (float[2,6,3,3] y) {{ c = Conv(x, w) {NORM} }}", constants()
    )
    assert fold_batch_norm(case.graph) == 0
