"""The four families through both of torch's exporters: equal before pruning, cut as any network, and written back."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import exporters
from compressor import checkpoint
from compressor.graph import ChannelGraph, trace
from compressor.methods import get
from compressor.onnx_in import Network
from compressor.pipeline.onnx_file import Inputs, open_onnx
from compressor.plan import PruningPlan, plan_to_json
from compressor.select import parse_budget, select
from compressor.shrink import shrink, silence

Exported = Callable[[str, bool], tuple[nn.Module, Path]]

# The issue asks for 1e-4; float32 sums in another order stay far below.
TOLERANCE = 1e-5
INPUTS = Inputs(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
NAMES = ("resnet18", "mobilenet_v2", "vgg16_bn", "densenet121")
FAMILIES = [(name, dynamo) for name in NAMES for dynamo in (True, False)]


def plan_of(graph: ChannelGraph, keep: dict[str, tuple[int, ...]]) -> PruningPlan:
    return PruningPlan(keep=keep, sizes={name: graph.group(name).size for name in keep})


@pytest.fixture(scope="module")
def opened(exported: Exported) -> Callable[[str, bool], tuple[checkpoint.CompressedCheckpoint, Network, ChannelGraph]]:
    known: dict[tuple[str, bool], tuple[checkpoint.CompressedCheckpoint, Network, ChannelGraph]] = {}

    def of(name: str, dynamo: bool) -> tuple[checkpoint.CompressedCheckpoint, Network, ChannelGraph]:
        if (name, dynamo) not in known:
            saved = open_onnx(exported(name, dynamo)[1], inputs=INPUTS)
            model = checkpoint.rebuild(saved)
            known[name, dynamo] = saved, model, trace(model, torch.zeros(2, 3, 32, 32))
        return known[name, dynamo]

    return of


@pytest.mark.parametrize(("name", "dynamo"), FAMILIES)
def test_it_is_the_network_that_was_exported(name: str, dynamo: bool, exported: Exported, opened: Exported) -> None:
    network, path = exported(name, dynamo)
    saved, model, _ = opened(name, dynamo)
    images = torch.randn(2, 3, 32, 32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        found, original = model(images).numpy(), network(images).numpy()
        several = model(torch.cat([images, images, images]))[4:].numpy()
    scale = np.abs(wanted).max()
    for other in (wanted, original, several):
        assert np.abs(found - other).max() / scale < TOLERANCE
    assert saved.record["max_difference"] < TOLERANCE
    # Layers under the names they had.
    known = {path for path, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert {path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)} == known


@pytest.mark.parametrize(("name", "dynamo"), FAMILIES)
def test_it_is_cut_like_any_network(name: str, dynamo: bool, opened: Exported) -> None:
    _, model, graph = opened(name, dynamo)
    assert {group.frozen for group in graph.groups} == {None, "network input", "network output"}
    l1 = get("l1")()
    l1.attach(model, torch.zeros(2, 3, 32, 32))
    plan = select(graph, l1.scores(model).values, budget=parse_budget("macs=0.5x"))
    slim, silent = shrink(model, graph, plan), silence(model, graph, plan)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, wanted = slim(images), silent(images)
    assert sum(p.numel() for p in slim.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(found, wanted, atol=TOLERANCE * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize(("name", "dynamo"), [("resnet18", True), ("densenet121", False)])
def test_a_slim_one_is_kept_and_written_back(name: str, dynamo: bool, opened: Exported, tmp_path: Path) -> None:
    saved, model, graph = opened(name, dynamo)
    plan = plan_of(graph, {g.name: tuple(range(g.size // 2)) for g in graph.groups if g.frozen is None})
    slim = shrink(model, graph, plan)
    kept = dataclasses.replace(saved, state=dict(slim.state_dict()), plan={"steps": [json.loads(plan_to_json(plan))]})
    checkpoint.save(kept, tmp_path / "slim.pt")
    again = checkpoint.rebuild(checkpoint.load(tmp_path / "slim.pt"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), slim(images))
    written = exporters.export(again, images, tmp_path / "slim.onnx", batch="dynamic")
    assert written.max_difference < TOLERANCE
    back = open_onnx(tmp_path / "slim.onnx", inputs=INPUTS)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.rebuild(back)(images), slim(images), atol=1e-5, rtol=1e-4)


def test_residual_blocks_are_modules(opened: Exported) -> None:
    _, model, graph = opened("resnet18", False)
    assert [branch.name for branch in graph.branches] == ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    assert isinstance(model.get_submodule("layer1.0"), Network)
    plan = plan_of(graph, dict.fromkeys(graph.branches[1].groups, ()))
    slim, silent = shrink(model, graph, plan), silence(model, graph, plan)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = silent(images)
        torch.testing.assert_close(slim(images), wanted, atol=TOLERANCE * float(wanted.abs().max()), rtol=0)


def test_it_trains(opened: Exported) -> None:
    _, model, _ = opened("vgg16_bn", True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            assert not torch.equal(value, before[name]), f"{name} does not train"
            value.copy_(before[name])
