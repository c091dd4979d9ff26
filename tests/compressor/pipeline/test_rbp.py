"""The recursion of RBP (reconstruction): planted redundancy and dependency, budgets, resuming, what it leaves."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.costs.macs import count_macs
from compressor.costs.widths import count_units, planned_macs, width_costs
from compressor.data import Dataset, Task, from_loaders
from compressor.errors import BudgetError, CheckpointError
from compressor.graph import trace
from compressor.methods.rbp import RBP
from compressor.methods.rbp_layer import find_noise
from compressor.methods.rbp_steering import Steering
from compressor.pipeline.rbp import Recursion, recurse, road
from compressor.pipeline.rbp import stage as rbp_stage
from compressor.pipeline.stages import plan_of
from compressor.plan import PruningPlan
from compressor.select import Limits, find_choices, parse_budget
from compressor.shrink import shrink
from compressor.train import Progress, TrainSettings, train

SETTINGS = TrainSettings(batch_size=64, peak_lr=0.05, precision="32", seed=3)
FAST = {"layer_epochs": 4, "share_epochs": 0, "bn_batches": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads may differ in their last bit from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def minus_distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return -(outputs - targets).square().flatten(1).mean(1)


def imitation(model: nn.Module, channels: int, *, batches: int = 24, pixels: int = 1) -> Dataset:
    """Batches of normal numbers, and what the network makes of them: it is right as it is."""
    generator = torch.Generator().manual_seed(7)

    def made(count: int) -> list[tuple[Tensor, Tensor]]:
        inputs = [torch.randn(64, channels, pixels, pixels, generator=generator) for _ in range(count)]
        with torch.no_grad():
            return [(batch, model.eval()(batch)) for batch in inputs]

    example = torch.zeros(2, channels, pixels, pixels)
    return from_loaders(made(batches), made(2), example=example, task=Task(F.mse_loss, minus_distance))


def recursion(
    model: nn.Module, data: Dataset, output: Path, *, budget: str = "macs=0.5x", step: int = 1, **changes: Any
) -> Recursion:
    rbp = RBP(**{**FAST, **changes})
    graph = trace(model, torch.zeros(2, *data.preprocessing.size))
    choices = find_choices(graph, budget=parse_budget(budget), step=step, min_keep=rbp.min_keep)
    return Recursion(rbp, graph, choices, data, SETTINGS, output)


def digits_like() -> nn.Module:
    """Three convolutions with batch norm, a flatten and a linear layer."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(64, 2, 4, 4))
    return model.eval()


def data_of(model: nn.Module) -> Dataset:
    return imitation(model, 2, batches=6, pixels=4)


def test_05_planted_redundancy_goes_and_the_rest_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 20, 1), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 12, 1)).eval()
    silent, unread = list(range(0, 20, 4)), list(range(1, 20, 4))
    with torch.no_grad():
        for _ in range(20):
            model.train()(torch.randn(64, 6, 1, 1))
        for parameter in (model[1].weight, model[1].bias):
            parameter[silent] = 0.0
        model[3].weight[:, unread] = 0.0
    planted = sorted([*silent, *unread])
    run = recursion(model, imitation(model, 6), tmp_path / "slim.pt", layer_epochs=8)
    slim, plan = recurse(run, model)
    assert plan.keep["0"] == tuple(sorted(set(range(20)) - set(planted)))
    (layer,) = json.loads((tmp_path / "slim.rbp.json").read_text())["layers"]
    # All planted channels past the threshold, and none that is needed: two peaks.
    assert (layer["redundant"], layer["undecided"]) == (10, 0.0)
    assert sum(layer["histogram"][:4]) == 10
    with torch.no_grad():
        inputs = torch.randn(256, 6, 1, 1)
        assert (slim(inputs) - model(inputs)).square().mean() < 0.1 * model(inputs).var()


def test_what_a_layer_does_not_need_later_layers_keep(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = [nn.Conv2d(6, 20, 1), nn.BatchNorm2d(20), nn.ReLU()]
    model = nn.Sequential(*first, nn.Conv2d(20, 20, 1), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 12, 1))
    with torch.no_grad():
        for _ in range(20):
            model.train()(torch.randn(64, 6, 1, 1))
        model[3].weight[:, ::2] = 0.0
    # Shared out evenly each layer would keep 15 of its 20 channels. Weights stay: none of the unread becomes useful.
    run = recursion(
        model, imitation(model, 6), tmp_path / "slim.pt", budget="density=0.75", layer_epochs=8, layer_lr=0.0
    )
    _, plan = recurse(run, model)
    assert plan.keep == {"0": tuple(range(1, 20, 2))}


class Planted(nn.Module):
    """y0..y3 = 1, 1, 0.5, 0.3 times channels of layer 2; the third of them lives of channel 3 of layer 1 alone.

    Layer 1: channels 0, 1, 2 are worth 1 or more, channel 3 is worth 0.5. Layer 2: channel 2 is worth 0.5 as long as
    channel 3 of layer 1 is there and nothing without it, channel 3 is worth 0.3 either way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = (nn.Conv2d(4, 4, 1, bias=False) for _ in range(3))
        with torch.no_grad():
            self.one.weight.copy_(torch.eye(4)[..., None, None])
            two = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
            self.two.weight.copy_(two[..., None, None])
            # Channel 2 of layer 1 is also wanted by channel 0 of layer 2, so that it is worth keeping.
            self.two.weight[0, 2] = 1.0
            self.out.weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 0.5, 0.3]))[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.relu(self.two(F.relu(self.one(x)))))
        return y


def test_06_the_recursion_finds_a_channel_that_lives_of_a_pruned_one(tmp_path: Path) -> None:
    model = Planted()
    data = imitation(model, 4)
    # Weights stay: another channel cannot learn to do the work.
    run = recursion(model, data, tmp_path / "slim.pt", budget="density=0.75", layer_epochs=8, layer_lr=0.0)
    _, plan = recurse(run, model)
    assert plan.keep == {"one": (0, 1, 2), "two": (0, 1, 3)}

    # Layer 2 before layer 1, each in the whole network: the useless channel stays.
    rbp, kept = run.rbp, {}
    for step in reversed(rbp.steps(model, run.graph)[0]):
        noisy = rbp.attach_to(model, (step,))
        rbp.steer(Steering(steps=192, samples=1536, cost=lambda units: sum(units.values()), start=4.0, goal=3.0))
        settings = replace(SETTINGS, epochs=8, peak_lr=0.0, schedule="constant", keep="last")
        train(noisy, data, settings=settings, method=rbp)
        (noise,) = find_noise(noisy)
        kept[step.group] = tuple(sorted(noise.logits.detach().argsort()[:3].tolist()))
    assert kept == {"one": (0, 1, 2), "two": (0, 1, 2)}


@pytest.mark.parametrize(
    ("budget", "step", "share_epochs"), [("macs=0.5x", 1, 1), ("macs=0.3x", 1, 0), ("params=0.54x", 4, 0)]
)
def test_budget_is_met_and_the_plan_replays(tmp_path: Path, budget: str, step: int, share_epochs: int) -> None:
    model = digits_like()
    run = recursion(
        model,
        data_of(model),
        tmp_path / "slim.pt",
        budget=budget,
        step=step,
        share_epochs=share_epochs,
        layer_epochs=1,
    )
    slim, plan = recurse(run, model)
    example = torch.zeros(2, 2, 4, 4)
    dense, cost = count_macs(model, example), count_macs(slim, example)
    value = float(budget.split("=")[1][:-1])
    part = cost.macs / dense.macs if budget.startswith("macs") else cost.parameters / dense.parameters
    assert part == pytest.approx(value, rel=0.02)
    # Coarse steps leave what does not fit.
    assert all(len(kept) % step == 0 for kept in plan.keep.values())
    replayed = shrink(model, run.graph, plan)
    shapes = {name: value.shape for name, value in slim.state_dict().items()}
    assert shapes == {name: value.shape for name, value in replayed.state_dict().items()}
    # Nothing of the noise is left, and the costs agree with the shapes.
    assert [type(module) for module in slim.modules()] == [type(module) for module in model.modules()]
    assert not [module for module in slim.modules() if module._forward_pre_hooks]
    keep = np.ones(run.graph.num_units, dtype=bool)
    for name, kept in plan.keep.items():
        group = run.graph.group(name)
        keep[group.start : group.start + group.size] = np.isin(np.arange(group.size), kept)
    assert cost.macs == planned_macs(width_costs(run.graph), count_units(run.graph, keep))
    assert plan_of(run.graph, keep) == plan


def test_08_one_noise_at_a_time_in_forward_order_and_what_is_pruned_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = digits_like(), []

    def watched(noisy: nn.Module, *arguments: Any, **options: Any) -> Any:
        result = train(noisy, *arguments, **options)
        shapes = {n: tuple(p.shape) for n, p in noisy.named_parameters() if "noise" not in n}
        seen.append(([noise.group for noise in find_noise(noisy)], shapes))
        return result

    monkeypatch.setattr(rbp_stage, "train", watched)
    run = recursion(model, data_of(model), tmp_path / "slim.pt", budget="macs=0.35x", layer_epochs=1)
    slim, _ = recurse(run, model)
    assert [groups for groups, _ in seen] == [["0"], ["3"], ["6"]]
    last = {name: tuple(parameter.shape) for name, parameter in slim.named_parameters()}
    for number, makers in enumerate(["0", "3", "6"]):
        before = seen[number][1][f"{makers}.weight"]
        assert before[0] > last[f"{makers}.weight"][0]
        for _, shapes in seen[number + 1 :]:
            assert shapes[f"{makers}.weight"] == last[f"{makers}.weight"]


class KilledError(Exception):
    pass


class KillAt(Progress):
    """Stops the run at the nth line that it says."""

    def __init__(self, line: int) -> None:
        self.left, self.said = line, []

    def line(self, text: str) -> None:
        self.said.append(text)
        self.left -= 1
        if self.left == 0:
            raise KilledError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], PruningPlan, list[str]]:
    torch.set_num_threads(1)
    model, listener = digits_like(), KillAt(-1)
    run = recursion(model, data_of(model), tmp_path_factory.mktemp("whole") / "slim.pt", layer_epochs=2, share_epochs=1)
    slim, plan = recurse(replace(run, progress=listener), model)
    return slim.state_dict(), plan, listener.said


# Lines: precision, how many layers, the epoch that shares out, then two epochs and a summary for each of 3 layers.
@pytest.mark.parametrize("line", [3, 4, 7])
def test_11_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, whole: tuple[dict[str, Tensor], PruningPlan, list[str]], line: int
) -> None:
    model = digits_like()
    run = recursion(model, data_of(model), tmp_path / "slim.pt", layer_epochs=2, share_epochs=1)
    with pytest.raises(KilledError):
        recurse(replace(run, progress=KillAt(line)), model)
    with pytest.raises(CheckpointError, match="other settings"):
        recurse(replace(run, rbp=replace(run.rbp, threshold=0.8)), model, resume=True)
    slim, plan = recurse(run, model, resume=True)
    assert plan == whole[1]
    assert all(torch.equal(value, whole[0][name]) for name, value in slim.state_dict().items())
    road.forget(tmp_path / "slim.pt")
    assert not list(tmp_path.glob("*.resume"))


def test_11_the_seed_decides(tmp_path: Path, whole: tuple[dict[str, Tensor], PruningPlan, list[str]]) -> None:
    model = digits_like()
    run = recursion(model, data_of(model), tmp_path / "slim.pt", layer_epochs=2, share_epochs=1)
    again, plan = recurse(run, model)
    assert plan == whole[1]
    assert all(torch.equal(value, whole[0][name]) for name, value in again.state_dict().items())
    other, _ = recurse(replace(run, settings=replace(SETTINGS, seed=4)), model)
    assert not torch.equal(other.state_dict()["10.bias"], whole[0]["10.bias"])
    assert all("RBP (reconstruction)" in text for text in whole[2][1:])


def test_09_kept_channels_fall_with_lambda_and_with_a_narrower_prior(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()
    with torch.no_grad():
        model[2].weight.mul_(torch.logspace(0, -2, 16)[None, :, None, None])  # worth less and less
    data = imitation(model, 6, batches=16)
    graph = trace(model, torch.zeros(2, 6, 1, 1))

    def needed(**settings: float) -> int:
        rbp = RBP(**settings)  # type: ignore[arg-type]
        noisy = rbp.attach_to(model, rbp.steps(model, graph)[0])
        rbp.steer(Steering(steps=128, samples=1024))
        still = replace(SETTINGS, epochs=8, peak_lr=0.0, schedule="constant", keep="last")
        train(noisy, data, settings=still, method=rbp)
        return int((next(find_noise(noisy)).rates <= rbp.threshold).sum())

    by_lam = [needed(lam=lam) for lam in (0.01, 0.3, 10.0)]
    assert by_lam == sorted(by_lam, reverse=True)
    assert by_lam[0] > by_lam[-1]
    by_width = [needed(lam=0.03, prior_variance=variance) for variance in (0.05, 0.002)]
    assert by_width == sorted(by_width, reverse=True)


def test_a_constant_lambda_leaves_the_shares_to_the_noise(tmp_path: Path) -> None:
    model = digits_like()
    shares = []
    for lam in (1e-6, 1.0):
        run = recursion(model, data_of(model), tmp_path / f"{lam}.pt", lam=lam, layer_epochs=3)
        slim, _ = recurse(run, model)
        example = torch.zeros(2, 2, 4, 4)
        assert count_macs(slim, example).macs == pytest.approx(0.5 * count_macs(model, example).macs, rel=0.02)
        shares.append(slim[0].out_channels)
    assert shares[0] > shares[1]


def test_a_budget_that_residual_sums_stand_in_the_way_of_says_so(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
            self.head = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            y: Tensor = self.head(F.relu(x + self.b(F.relu(self.a(x)))))
            return y

    torch.manual_seed(0)
    model = Block().eval()
    data = imitation(model, 2, batches=4)
    with pytest.raises(BudgetError, match=r"cannot be met.*stem stays whole: a residual sum; --set trunks=true"):
        recurse(recursion(model, data, tmp_path / "slim.pt", budget="macs=0.3x"), model)
    assert not list(tmp_path.iterdir())
    run = recursion(model, data, tmp_path / "slim.pt", budget="macs=0.29x", trunks=True, layer_epochs=1)
    slim, plan = recurse(run, model)
    assert set(plan.keep) == {"stem", "a"}
    assert slim.stem.out_channels == slim.b.out_channels == slim.head.in_channels < 8


def test_excluded_layers_stay_whole(tmp_path: Path) -> None:
    model = digits_like()
    run = recursion(model, data_of(model), tmp_path / "slim.pt", budget="macs=0.7x", layer_epochs=1)
    choices = find_choices(
        run.graph, budget=parse_budget("macs=0.7x"), limits=Limits(exclude=("0",), keep_min={"3": 0.75})
    )
    slim, plan = recurse(replace(run, choices=choices), model)
    assert "0" not in plan.keep
    assert slim[3].out_channels >= math.ceil(0.75 * 12)
