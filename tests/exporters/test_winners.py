import fbs_reference as reference
import numpy as np
import pytest
import tiny_networks as tiny
import torch

from exporters.winners import NEAR_TIE, LayerWinners, near_ties, record_winners, winner_outputs, with_winner_outputs


def layer(*rows, k=2):
    saliency = np.array(rows, np.float32)
    return LayerWinners(saliency, np.sort(np.argsort(-saliency, axis=1, kind="stable")[:, :k], axis=1))


def test_recorded_winners_are_those_of_the_definition():
    network = tiny.with_fbs(tiny.settled(tiny.Chain())).eval()
    x = torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), record_winners(network) as layers:
        network(x)
    assert list(layers) == ["features.0", "features.3", "features.8"]
    first = network.features[0].fold()
    _, winners = reference.fbs_conv(
        x.permute(0, 2, 3, 1).numpy(),
        np.arange(3)[None],
        *(getattr(first, name).numpy() for name in ("weight", "shift", "saliency_weight", "saliency_bias")),
        **reference.fbs_attributes(winners=first.winners),
    )
    np.testing.assert_array_equal(layers["features.0"].winners, winners)
    assert not network._forward_pre_hooks
    assert not network.features[0]._forward_hooks


def test_swap_within_the_noise_is_a_tie_beyond_it_is_not():
    gap = NEAR_TIE / 2
    expected = {"a": layer([2.0, 1.0, 1.0 - gap], [2.0, 1.0, 0.9], [2.0, 1.0, 0.9])}
    found = {"a": np.array([[0, 2], [0, 2], [0, 1]])}
    np.testing.assert_array_equal(near_ties(expected, found, 3), [True, False, False])


@pytest.mark.parametrize(("first_gap", "tied"), [(0.0, True), (0.1, False)])
def test_only_the_first_difference_counts(first_gap, tied):
    expected = {"a": layer([2.0, 1.0, 1.0 - first_gap]), "b": layer([5.0, 4.0, 0.0])}
    found = {"a": np.array([[0, 2]]), "b": np.array([[1, 2]])}
    np.testing.assert_array_equal(near_ties(expected, found, 1), [tied])


def test_winners_become_outputs_behind_the_others():
    constants = {
        name: np.ones(shape, np.float32) for name, shape in zip("WBAR", ((4, 3, 1, 1), 4, (3, 4), 4), strict=True)
    }
    model = reference.one_node_model(
        "FBSConv", (2, 2, 3), np.arange(3)[None], constants, reference.fbs_attributes(pads=[0] * 4), batch=1
    )
    del model.graph.output[1:]
    marked = with_winner_outputs(model)
    assert winner_outputs(model) == {"FBSConv": "J"}
    assert [value.name for value in marked.graph.output] == ["Y", "J"]
    assert [value.name for value in model.graph.output] == ["Y"]
