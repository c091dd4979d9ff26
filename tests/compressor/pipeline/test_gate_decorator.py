"""The road of Ticks and Tocks: invariants 7 and 9 to 11, the budget, the log, and runs that are killed."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compressor.pipeline.gate_decorator.road as road
from compressor.costs.macs import count_macs
from compressor.data import Augmentation, Dataset, Loader, Preprocessing, TensorSplit
from compressor.errors import BudgetError, CheckpointError, CompressorError
from compressor.graph import ChannelGraph, trace
from compressor.methods.gate_decorator import GateDecorator
from compressor.methods.gate_decorator_convert import add_gates, find_gates, fold_gates, gates_of, set_masks
from compressor.pipeline.gate_decorator import TickTock, forget, tick_tock
from compressor.pipeline.gate_decorator import run as gate_run
from compressor.pipeline.gate_decorator.log import Stage, seconds_left, write_tensorboard
from compressor.pipeline.gate_decorator.state import state_path
from compressor.pipeline.gate_decorator.width import held_units, narrowed, narrowed_gates, write_back
from compressor.plan import PruningPlan
from compressor.select import Limits, find_choices, parse_budget
from compressor.shrink import shrink
from compressor.train import Progress, TrainSettings, evaluate

LOADER = Loader(16)
SETTINGS = TrainSettings(batch_size=16, precision="32", seed=4)
GATES = GateDecorator(prune_fraction=0.06, ticks_per_tock=2, tock_epochs=2, tick_lr=0.01, tock_lr_max=0.05)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads may differ in their last bit from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Three classes of noise with a bright corner: easy, but not solved at once."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorSplit:
        labels = torch.arange(count) % 3
        images = torch.randint(0, 120, (count, 1, 8, 8), generator=generator)
        for label, (row, column) in enumerate(((0, 0), (0, 4), (4, 0))):
            images[labels == label, :, row : row + 4, column : column + 4] += 70
        return TensorSplit(images.to(torch.uint8), labels, Augmentation(crop_padding=1))

    preprocessing = Preprocessing((0.3,), (0.2,), (1, 8, 8))
    return Dataset("corners", ("a", "b", "c"), preprocessing, split(64), split(48), split(48))


class Block(nn.Module):
    """relu(x + bn(outer(relu(bn(inner(x))))))."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.inner_bn = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.outer, self.outer_bn = nn.Conv2d(16, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(x + self.outer_bn(self.outer(torch.relu(self.inner_bn(self.inner(x))))))
        return out


class Network(nn.Module):
    """A residual block with batch norms, a convolution without, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn, self.block = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), Block()
        self.bare, self.classifier = nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.Linear(16 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(torch.relu(self.stem_bn(self.stem(x))))
        logits: Tensor = self.classifier(torch.relu(self.bare(x)).flatten(1))
        return logits


def network() -> nn.Module:
    torch.manual_seed(1)
    model = Network().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return model


IMAGES = torch.zeros(2, 1, 8, 8)
GRAPH: ChannelGraph = trace(network(), IMAGES)


def a_run(dataset: Dataset, folder: Path, **changes: object) -> TickTock:
    gates = dataclasses.replace(GATES, **{k: v for k, v in changes.items() if hasattr(GATES, k)})
    limits, step = Limits(remove_branches=bool(changes.get("branches"))), int(changes.get("step", 1))
    budget = parse_budget(str(changes.get("budget", "macs=0.5x")))
    return TickTock(
        gates=gates,
        graph=GRAPH,
        choices=find_choices(GRAPH, budget=budget, limits=limits, step=step, min_keep=gates.min_keep),
        dataset=dataset,
        settings=dataclasses.replace(SETTINGS, seed=int(changes.get("seed", 4))),
        output=folder / "slim.pt",
        progress=changes.get("progress", Progress()),
        tensorboard=changes.get("tensorboard"),
    )


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, PruningPlan, Path]:
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    return *tick_tock(a_run(dataset, folder), network()), folder


def stages(folder: Path) -> list[dict[str, str]]:
    with (folder / "slim.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_budget_is_met_by_a_plain_network(whole: tuple[nn.Module, PruningPlan, Path], dataset: Dataset) -> None:
    model, plan, folder = whole
    assert not list(gates_of(model))
    slim = shrink(model, GRAPH, plan)
    assert count_macs(slim, IMAGES).macs == pytest.approx(0.5 * count_macs(network(), IMAGES).macs, rel=0.02)
    # Masked is as good as cut: what the last Tick validated is what is left.
    last = stages(folder)[-1]
    assert evaluate(slim, dataset, "val").top1 == float(last["val_top1"]) > 0.6  # chance is 1/3
    assert count_macs(slim, IMAGES).macs == pytest.approx(float(last["macs"]))
    assert sum(p.numel() for p in slim.parameters()) == int(last["parameters"])


def test_07_the_log_says_how_it_went(whole: tuple[nn.Module, PruningPlan, Path]) -> None:
    rows = stages(whole[2])
    kinds = [row["kind"] for row in rows]
    assert kinds[:4] == ["tock", "tick", "tick", "tock"]
    assert kinds[-1] == "tick"
    assert kinds.count("tock") == 1 + (kinds.count("tick") - 1) // 2
    for column in ("macs", "filters", "parameters"):
        values = [float(row[column]) for row in rows]
        assert values == sorted(values, reverse=True)
        assert all((a > b) == (row["kind"] == "tick") for a, b, row in zip(values, values[1:], rows[1:], strict=False))
    assert float(rows[0]["macs_fraction"]) == 1.0
    assert float(rows[-1]["epochs"]) == kinds.count("tick") + 2 * kinds.count("tock")


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 8, "budget": "macs=0.57x"},
        {"budget": "params=0.7x"},
        {"budget": "density=0.7"},
        {"branches": True, "budget": "macs=0.3x"},
        {"tick_images": 32, "threshold": "released", "tick_train_shift": False, "first_tock": False},
    ],
    ids=str,
)
def test_other_wishes_are_met(dataset: Dataset, tmp_path: Path, changes: dict[str, object]) -> None:
    run = a_run(dataset, tmp_path, tock_epochs=0, **changes)
    model, plan = tick_tock(run, network())
    slim = shrink(model, GRAPH, plan)
    keep = np.array([len(plan.keep.get(g.name, range(g.size))) for g in GRAPH.groups])
    assert run.choices.cost(keep) == pytest.approx(run.choices.target, rel=0.02)
    step = int(changes.get("step", 1))
    assert all(len(kept) % step == 0 for kept in plan.keep.values())
    rows = stages(tmp_path)
    assert {row["kind"] for row in rows} == {"tick"}
    assert evaluate(slim, dataset, "val").top1 == float(rows[-1]["val_top1"])
    if "tick_images" in changes:
        assert float(rows[0]["epochs"]) == 0.5


class StoppedError(Exception):
    pass


def killed(dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Runs until so many updates are done, and is killed in the middle of the next."""
    left = steps
    after_step = torch.optim.SGD.step

    def step(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise StoppedError
        return after_step(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.SGD, "step", step)
        with pytest.raises(StoppedError):
            tick_tock(a_run(dataset, folder), network())


# Four steps are an epoch: in the first Tock, at its end, in the first Tick, in the second Tock.
@pytest.mark.parametrize("steps", [5, 8, 10, 21])
def test_a_killed_run_goes_on_to_the_same_bits(
    whole: tuple[nn.Module, PruningPlan, Path],
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    killed(dataset, tmp_path, monkeypatch, steps)
    other = network()
    nn.init.ones_(other.classifier.weight)  # nothing of a fresh process's weights may be left
    run = a_run(dataset, tmp_path)
    same = gate_run.fingerprint(network())
    monkeypatch.setattr(gate_run, "fingerprint", lambda _model: same)
    model, plan = tick_tock(run, other, resume=True)
    assert plan == whole[1]
    expected = whole[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())

    def timeless(folder: Path) -> list[dict[str, str]]:
        return [{**row, "seconds": ""} for row in stages(folder)]

    assert timeless(tmp_path) == timeless(whole[2])


def test_a_run_goes_on_only_as_what_it_was(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        tick_tock(a_run(dataset, tmp_path), network(), resume=True)
    killed(dataset, tmp_path, monkeypatch, 14)
    for change in ({"l1": 0.5}, {"budget": "macs=0.4x"}, {"seed": 5}, {"branches": True}):
        with pytest.raises(CheckpointError, match="other settings"):
            tick_tock(a_run(dataset, tmp_path, **change), network(), resume=True)
    other = network()
    nn.init.ones_(other.classifier.weight)
    with pytest.raises(CheckpointError, match="other settings"):
        tick_tock(a_run(dataset, tmp_path), other, resume=True)
    state_path(tmp_path / "slim.pt").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="not the complete state"):
        tick_tock(a_run(dataset, tmp_path), network(), resume=True)
    forget(tmp_path / "slim.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slim.csv"]


class Watcher:
    """Looks at the weights before and after every stage, through what the road says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, dict[str, Tensor], dict[str, Tensor]]] = []
        inner = road.train

        def train(model: nn.Module, *arguments: object, **named: object) -> object:
            settings = named["settings"]
            before = {name: value.clone() for name, value in model.state_dict().items()}
            record = inner(model, *arguments, **named)
            after = {name: value.clone() for name, value in model.state_dict().items()}
            self.seen.append((settings.schedule, before, after))
            return record

        monkeypatch.setattr(road, "train", train)


def test_09_ticks_leave_convolutions_bit_for_bit_and_tocks_do_not(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(monkeypatch)
    tick_tock(a_run(dataset, tmp_path, budget="macs=0.7x"), network())
    assert {kind for kind, _, _ in watcher.seen} == {"constant", "triangular"}
    for kind, before, after in watcher.seen:
        convolutions = [n for n in before if n.partition(".")[0] in ("stem", "block", "bare")]
        convolutions = [n for n in convolutions if n.endswith((".weight", ".bias")) and "_bn" not in n]
        assert len(convolutions) == 5
        assert all(torch.equal(before[n], after[n]) == (kind == "constant") for n in convolutions)
        for gate, mask in (("block.inner_bn.weight", "block.inner_bn.mask"), ("bare.gate", "bare.mask")):
            live = before[mask] > 0
            assert (before[gate] != after[gate])[live].all()
        assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
        assert not torch.equal(before["stem_bn.running_mean"], after["stem_bn.running_mean"])


def test_10_a_tock_goes_up_and_down(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def note(optimizer: torch.optim.SGD, *arguments: object, **named: object) -> object:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments, **named)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    run = a_run(
        dataset, tmp_path, tock_lr_min=0.001, tock_lr_max=0.01, tock_epochs=3, tick_lr=0.002, budget="macs=0.9x"
    )
    tick_tock(run, network())
    tock, tick = rates[:12], rates[12:16]
    assert (tock[0], tock[6]) == (0.001, 0.01)
    assert tock[:7] == sorted(tock[:7])
    assert tock[6:] == sorted(tock[6:], reverse=True)
    assert tock[-1] - 0.001 == pytest.approx(tock[1] - tock[0])
    assert tick == [0.002] * 4


def test_11_l1_makes_gates_small(dataset: Dataset, tmp_path: Path) -> None:
    means = []
    for l1 in (0.0, 0.02):
        (tmp_path / str(l1)).mkdir()
        run = a_run(dataset, tmp_path / str(l1), l1=l1, tock_epochs=4, budget="macs=0.95x", step=1)
        model, _ = tick_tock(run, network())
        scales = torch.cat([m.weight.abs() for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
        means.append(scales.mean().item())
    assert means[1] < 0.95 * means[0]


@pytest.mark.parametrize("gone", [3, 12, 30])
def test_a_narrow_network_is_the_masked_one(dataset: Dataset, gone: int) -> None:
    """Same outputs, same scores of a mini-batch; and what it learns comes back to its place."""
    model, method = network(), GateDecorator()
    full = method.attach_to(model, GRAPH).train()
    with torch.no_grad():
        full.bare.gate.uniform_(0.5, 1.5)
    free = [u for g in GRAPH.groups if g.frozen is None for u in range(g.start, g.start + g.size)]
    keep = np.ones(GRAPH.num_units, dtype=bool)
    keep[np.random.default_rng(0).permutation(free)[:gone]] = False
    keep[GRAPH.group("block.inner").start : GRAPH.group("block.inner").start + 16] = (
        gone < 20
    )  # a branch without live units
    gates = find_gates(model, GRAPH)
    set_masks(full, gates, keep)
    held = held_units(GRAPH, keep)
    assert (held >= keep).all()
    narrow = narrowed(full, GRAPH, gates, held)
    images, labels = next(iter(dataset.batches("train", LOADER)))
    scores = []
    for network_, places in ((full, gates), (narrow, narrowed_gates(gates, held))):
        method.turn_to(places)
        nn.functional.cross_entropy(network_(images), labels).backward()
        method.after_backward(network_)
        scores.append(method.scores(network_).values)
    assert all(torch.allclose(scores[0][name], scores[1][name], atol=1e-6) for name in scores[0])
    assert torch.allclose(full.eval()(images), narrow.eval()(images), atol=1e-5)
    with torch.no_grad():
        for parameter in narrow.parameters():
            parameter.add_(1.0)
    before = {name: value.clone() for name, value in full.state_dict().items()}
    write_back(full, narrow, graph=GRAPH, gates=gates, held=held)
    again = narrowed(full, GRAPH, gates, held)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in narrow.state_dict().items())
    changed = sum(int((value != before[name]).sum()) for name, value in full.named_parameters())
    assert changed == sum(p.numel() for p in narrow.parameters())


def test_folding_right_after_conversion_and_a_narrow_step_is_exact(dataset: Dataset) -> None:
    model = network()
    gates = find_gates(model, GRAPH)
    images, _ = next(iter(dataset.batches("val", LOADER)))
    assert torch.allclose(fold_gates(add_gates(model, gates))(images), model(images), atol=1e-5)


def test_what_cannot_be_reached_is_refused_before_any_training(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="closest reachable"):
        tick_tock(a_run(dataset, tmp_path, budget="macs=0.01x"), network())
    assert not list(tmp_path.iterdir())


def test_lines_say_where_it_is_and_what_is_left(dataset: Dataset, tmp_path: Path) -> None:
    class Lines(Progress):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def line(self, text: str) -> None:
            self.lines.append(text)

    said = Lines()
    tick_tock(a_run(dataset, tmp_path, progress=said), network())
    ticks = [line for line in said.lines if line.startswith("tick ")]
    tocks = [line for line in said.lines if line.startswith("tock 1")]
    assert any(line.startswith("56 filters; about") for line in said.lines)
    assert all("% of the MACs" in line and "val accuracy" in line for line in ticks)
    assert all("left" in line for line in ticks[:-1])
    assert ticks[-1].endswith("the budget is met")
    assert len(tocks) == 3  # two epochs and the summary


def test_time_left_is_known_once_both_kinds_have_been_seen() -> None:
    def stage(kind: str, seconds: float) -> Stage:
        return Stage(kind, 1, 1.0, 1.0, 1.0, 1, 1, 0.1, 0.1, 0.9, seconds)

    assert seconds_left([stage("tock", 10.0)], ticks=3, tocks=1) is None
    assert seconds_left([stage("tock", 10.0), stage("tick", 2.0), stage("tick", 4.0)], ticks=3, tocks=2) == 29.0
    assert seconds_left([stage("tick", 2.0)], ticks=3, tocks=0) == 6.0


def test_tensorboard_gets_every_stage_or_says_that_it_is_absent(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(CompressorError, match="pip install tensorboard"):
            write_tensorboard([], tmp_path)
    pytest.importorskip("tensorboard")
    events = tmp_path / "events"
    tick_tock(a_run(dataset, tmp_path, tensorboard=events, budget="macs=0.8x"), network())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(events)).Reload()
    points = {point.step: point.value for point in read.Scalars("macs_fraction")}
    assert sorted(points.values()) == pytest.approx(sorted(float(row["macs_fraction"]) for row in stages(tmp_path)))
    assert sorted(points) == list(range(1, len(points) + 1))
