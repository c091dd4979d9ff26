import numpy as np
import pytest

from exporters.errors import ExportError
from exporters.passes.lower_fbs_conv import lower_fbs_conv


def case_of(rewritten, *, winners=2, saliency=(3, 5), more=""):
    generator = np.random.default_rng(0)
    shapes = {"w": (5, 3, 3, 3), "b": (5,), "s": saliency, "r": (5,)}
    constants = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    case = rewritten(
        f"g (float[2,3,4,6] x) => (float[2,5,4,6] y) <float[2,5,4,6] f> {{"
        f" f = compress.torch.FBSConvDense<winners={winners}, strides=[1,1], pads=[1,1,1,1], dilations=[1,1],"
        f" saliency_slope=0.0, normalize=0, winner_block=1>(x, w, b, s, r) {more} y = Neg(f) }}",
        constants,
    )
    for node in case.graph.nodes:
        node.name = "layer" if node.op == "FBSConvDense" else node.op
    return case


def test_layer_becomes_packed_between_changes_of_form(rewritten):
    case = case_of(rewritten)
    assert lower_fbs_conv(case.graph) == 1
    assert [node.op for node in case.graph.nodes] == ["Transpose", "FBSConv", "Unpack", "Transpose", "Neg"]
    conv = case.node("FBSConv")
    assert conv.name == "layer"
    np.testing.assert_array_equal(conv.inputs[1].values, [[0, 1, 2]])
    assert conv.outputs[0].shape == [2, 4, 6, 2]
    assert conv.outputs[1].shape == [2, 2]
    assert case.node("Unpack").attrs == {"channels": 5}


@pytest.mark.parametrize("changes", [{"winners": 0}, {"winners": 6}, {"saliency": (5, 3)}])
def test_sizes_that_do_not_fit_are_refused(rewritten, changes):
    with pytest.raises(ExportError, match=r"layer 'layer': . winners of 5 channels"):
        lower_fbs_conv(case_of(rewritten, **changes).graph)
