import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import mobilenetv2, resnet

from compressor.graph import trace
from compressor.methods.l1 import magnitudes
from compressor.plan import PruningPlan
from compressor.select import Limits, parse_budget, select
from compressor.shrink import Residue, remap_optimizer, removed_branches, shrink, silence

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOLERANCE = 1e-10  # of the largest output; double precision


def randomised(model: nn.Module) -> nn.Module:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() == 1:
            nn.init.uniform_(tensor, 0.3 if "var" in name else -0.5, 1.0)
    return model.double().eval()


def check(model: nn.Module, *, trunk: bool) -> nn.Module:
    """Cuts every second branch to nothing, and where `trunk` half of every other group."""
    graph = trace(model, IMAGES)
    assert graph.branches
    gone = {name for branch in graph.branches[::2] for name in branch.groups}
    keep: dict[str, tuple[int, ...]] = dict.fromkeys(gone, ())
    if trunk:
        free = [g for g in graph.groups if g.frozen is None and g.name not in gone]
        keep.update({g.name: tuple(range(0, g.size, 2)) for g in free})
    plan = PruningPlan(keep, {name: graph.group(name).size for name in keep})
    assert removed_branches(graph, plan) == graph.branches[::2]
    dense, slim = silence(model, graph, plan), shrink(model, graph, plan)
    want, got = dense(IMAGES), slim(IMAGES)
    assert float((want - got).detach().abs().max()) <= TOLERANCE * float(want.detach().abs().max())
    for branch in graph.branches[::2]:
        assert isinstance(slim.get_submodule(branch.name), Residue)
    return slim


def test_residual_blocks_with_and_without_shortcut_modules() -> None:
    torch.manual_seed(0)
    model = randomised(resnet.ResNet(resnet.BasicBlock, [2, 2, 1, 1], num_classes=5))
    slim = check(model, trunk=False)
    check(model, trunk=True)
    assert slim.layer1[0].shift is not None
    assert slim.layer2[0].shift is None  # taken in by the downsampling batch norm
    convolutions = sum(isinstance(m, nn.Conv2d) for m in slim.modules())
    assert convolutions == sum(isinstance(m, nn.Conv2d) for m in model.modules()) - 6


def test_blocks_without_activation() -> None:
    torch.manual_seed(0)
    settings = [[2, 16, 2, 1], [2, 24, 3, 2]]
    model = randomised(mobilenetv2.MobileNetV2(num_classes=5, inverted_residual_setting=settings))
    check(model, trunk=True)


class Plain(nn.Module):
    """Bare functions, a bias, an option-A shortcut in the block's own code (not removable) and one in a module."""

    def __init__(self, *, module: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.short = nn.AvgPool2d(1) if module else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = self.short(x) if self.short is not None else x.clone().mul(1.0)
        return F.relu(short + self.b(F.relu(self.a(x))))


def test_bare_functions_and_foreign_shortcuts() -> None:
    torch.manual_seed(0)
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Plain(module=True), Plain(module=False), *tail).double().eval()
    assert [b.name for b in trace(model, IMAGES).branches] == ["1"]
    check(model, trunk=True)


def test_selection_removes_what_scores_nothing() -> None:
    torch.manual_seed(0)
    model = randomised(resnet.ResNet(resnet.BasicBlock, [2, 2, 1, 1], num_classes=5))
    graph = trace(model, IMAGES)
    scores = dict(magnitudes(model, graph))
    scores["layer1.1.conv1"] = scores["layer1.1.conv1"] * 1e-3
    limits = Limits(remove_branches=True)
    for step in (1, 16):
        plan = select(graph, scores, budget=parse_budget("macs=0.6x"), limits=limits, step=step)
        assert "layer1.1" in {b.name for b in removed_branches(graph, plan)}
        macs = sum(layer.macs for layer in trace(shrink(model, graph, plan), IMAGES).layers)
        assert abs(macs / sum(layer.macs for layer in graph.layers) / 0.6 - 1) <= 0.02
    plan = select(graph, scores, budget=parse_budget("macs=0.6x"))
    assert removed_branches(graph, plan) == ()


def test_optimizer_state_of_shortcuts_moves_along() -> None:
    torch.manual_seed(0)
    model = randomised(resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=5))
    graph = trace(model, IMAGES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(IMAGES).sum().backward()
    optimizer.step()
    keep: dict[str, tuple[int, ...]] = {name: () for branch in graph.branches for name in branch.groups}
    plan = PruningPlan(keep, {name: graph.group(name).size for name in keep})
    slim = shrink(model, graph, plan)
    carried = remap_optimizer(optimizer, model, slim, graph=graph, plan=plan)
    held = {id(p) for group in carried.param_groups for p in group["params"]}
    assert held == {id(p) for p in slim.parameters()}
    moved = carried.state[slim.layer2[0].shortcut[0].weight]["momentum_buffer"]
    assert torch.equal(moved, optimizer.state[model.layer2[0].downsample[0].weight]["momentum_buffer"])
