import copy

import numpy as np
import pytest
import torch
from torch import nn

from compressor.errors import PlanError
from compressor.graph import trace
from compressor.plan import PruningPlan, plan_from_json, plan_to_json
from compressor.shrink import fold_constants, reestimate_batch_norm, remap_optimizer, shrink, silence

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PLAN = PruningPlan({"0": (0, 2, 5), "3": (1, 2, 3, 7)}, {"0": 6, "3": 8})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, groups=1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).double()


def test_settings_and_a_replay_on_a_fresh_network() -> None:
    model = network()
    graph = trace(model, IMAGES)
    slim = shrink(model, graph, PLAN)
    assert (slim[0].out_channels, slim[1].num_features, slim[3].in_channels) == (3, 3, 3)
    assert (slim[4].groups, slim[4].in_channels, slim[4].out_channels, slim[7].in_features) == (4, 4, 4, 4)
    fresh = network()
    replayed = shrink(fresh, trace(fresh, IMAGES), plan_from_json(plan_to_json(PLAN)))
    replayed.load_state_dict(slim.state_dict())
    assert torch.equal(replayed.eval()(IMAGES), slim.eval()(IMAGES))


def test_another_network_or_plan_is_refused() -> None:
    graph = trace(network(), IMAGES)
    with pytest.raises(PlanError, match=r"not the network of this graph: '0.weight' has shape \(7, 3, 3, 3\)"):
        shrink(nn.Sequential(nn.Conv2d(3, 7, 3), *network()[1:]), graph, PLAN)
    with pytest.raises(PlanError, match="frozen: network output"):
        shrink(network(), graph, PruningPlan({"7": (0,)}, {"7": 5}))
    with pytest.raises(PlanError, match="left without channels"):
        shrink(network(), graph, PruningPlan({"0": ()}, {"0": 6}))


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
    lambda p: torch.optim.AdamW(p, lr=1e-2),
])  # fmt: skip
def test_optimizer_goes_on_as_the_silenced_network_would(make) -> None:
    model = network().eval()
    graph = trace(model, IMAGES)
    optimizer = make(model.parameters())

    def step(net: nn.Module, opt: torch.optim.Optimizer) -> None:
        opt.zero_grad()
        (net(IMAGES) ** 2).sum().backward()
        opt.step()

    for _ in range(3):
        step(model, optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    slim = shrink(model, graph, PLAN)
    carried = remap_optimizer(optimizer, model, slim, graph=graph, plan=PLAN)
    dense = silence(model, graph, PLAN)
    twin = make(dense.parameters())
    twin.load_state_dict(copy.deepcopy(before))
    step(slim, carried)
    step(dense, twin)
    kept = torch.tensor(PLAN.keep["3"])
    assert torch.allclose(slim[3].weight, dense[3].weight[kept][:, [0, 2, 5]], rtol=1e-10, atol=1e-12)
    assert torch.allclose(slim[7].bias, dense[7].bias, rtol=1e-10, atol=1e-12)
    assert str(optimizer.state_dict()) == str(before)
    with pytest.raises(ValueError, match="not the network's"):
        remap_optimizer(make(network().parameters()), model, slim, graph=graph, plan=PLAN)


def test_batch_norm_is_the_average_over_batches() -> None:
    model = network()
    fresh = reestimate_batch_norm(model, [(IMAGES[:8], 0), (IMAGES[8:], 0)])
    inside = model[0](IMAGES).detach()
    assert torch.allclose(fresh[1].running_mean, inside.mean((0, 2, 3)))
    assert fresh[1].momentum == model[1].momentum
    assert np.all(model[1].running_mean.numpy() == 0)
    assert fresh.training
    with pytest.raises(ValueError, match="no batch"):
        reestimate_batch_norm(model, [])


def test_constant_channels_are_kept_as_biases() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, bias=False, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    ).double()
    model.eval()
    with torch.no_grad():
        for norm, zeros in ((model[1], [1, 4]), (model[4], [3, 7])):
            norm.weight[zeros] = 0
            norm.bias.uniform_(0.2, 1)
    graph = trace(model, IMAGES)
    keep = {"0": (0, 2), "3": (0, 1, 2)}  # units of a grouped convolution are pairs
    plan = PruningPlan(keep, {name: graph.group(name).size for name in keep})
    want = model(IMAGES)
    assert not torch.allclose(shrink(model, graph, plan)(IMAGES), want)
    folded = fold_constants(model, graph, plan, IMAGES)
    assert torch.allclose(shrink(folded, graph, plan)(IMAGES), want, rtol=1e-10)
    assert not folded.training
