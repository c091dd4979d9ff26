from collections.abc import Callable

import pytest
import torch

import models
from compressor.graph import ChannelGraph


@pytest.mark.parametrize("name", sorted(set(models.names()) - {"resnet56"}))  # resnet20 has the same blocks
def test_silenced_equals_shrunk(name: str, check_cut: Callable[..., ChannelGraph]) -> None:
    torch.manual_seed(0)
    graph = check_cut(models.build(name), torch.randn(2, *models.input_size(name)), seeds=1, gradients=False)
    reasons = {group.frozen for group in graph.groups if group.frozen is not None}
    # lenet300100's first layer reads pixels.
    fixed = ("network ", "channels padded by a number", "reads a dimension that holds no channels")
    assert all(reason.startswith(fixed) for reason in reasons)
    assert sum(g.size for g in graph.groups if g.frozen is None) > 0
