"""The road of structured pruning: what is pruned stays pruned, is what was asked for, and comes back from the files."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compressor import checkpoint, data
from compressor.data import Dataset
from compressor.errors import CheckpointError, CompressorError, MethodError
from compressor.graph import trace
from compressor.methods.structured import Structured
from compressor.methods.structured_density import count_weights
from compressor.methods.structured_evaluator import Evaluator
from compressor.methods.structured_filter import search
from compressor.methods.structured_units import channel_target, layer_masks
from compressor.pipeline.structured import Searches, forget, keep_zeros, search_all
from compressor.pipeline.structured.images import hold_out
from compressor.plan import PruningPlan, plan_to_json
from compressor.quantise import layer_storage, quantise
from compressor.select import Limits
from compressor.shrink import shrink
from compressor.train import Progress, TrainSettings, evaluate, train

SETTINGS = TrainSettings(peak_lr=0.05, batch_size=64, precision="32")
EXAMPLE = torch.zeros(2, 1, 8, 8)
SHORT: dict[str, Any] = {"particles": 4, "steps": 2, "hold": 1, "images": 100, "max_drop": 1.0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads may differ in their last bit from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def block(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, stride=stride, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def network() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(*block(1, 12), *block(12, 16, 2), *block(16, 16), *head)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> nn.Module:
    model = network()
    train(model, digits, settings=replace(SETTINGS, epochs=5, peak_lr=0.2))
    return model.eval()


def wanted(output: Path, dataset: Dataset, model: nn.Module, counts: dict[str, int], **fields: Any) -> Searches:
    return Searches(
        method=Structured(**{**SHORT, **fields}),
        graph=trace(model, EXAMPLE),
        counts=counts,
        plan=PruningPlan(),
        limits=Limits(),
        dataset=dataset,
        settings=SETTINGS,
        output=output,
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


def as_checkpoint(model: nn.Module, plan: PruningPlan, base: nn.Module, folder: Path) -> nn.Module:
    """The network after a way through a file."""
    preprocessing = data.Preprocessing((0.0,), (1.0,), (1, 8, 8))
    steps = {"steps": [json.loads(plan_to_json(plan))]}
    saved = checkpoint.CompressedCheckpoint("", {}, preprocessing, (), model.state_dict(), plan=steps)
    checkpoint.save(saved, folder / "small.pt")
    return checkpoint.rebuild(replace(checkpoint.load(folder / "small.pt"), base=base))


@pytest.mark.parametrize("scope", ["layer", "net"])
def test_channels_are_gone_and_the_plan_says_which(
    scope: str, digits: Dataset, trained: nn.Module, tmp_path: Path
) -> None:
    before = copy.deepcopy(trained)
    run = wanted(tmp_path / "slim.pt", digits, trained, {"0": 6, "3": 8, "6": 10}, scope=scope)
    slim, plan, record = search_all(run, trained)
    assert {name: len(kept) for name, kept in plan.keep.items()} == {"0": 6, "3": 8, "6": 10}
    assert [slim.get_submodule(name).out_channels for name in ("0", "3", "6")] == [6, 8, 10]
    assert len(record["searches"]) == (3 if scope == "layer" else 1)
    assert same(trained, before)
    again = as_checkpoint(slim, plan, network(), tmp_path)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(again(images), slim(images))
    forget(tmp_path / "slim.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["small.pt"]


def test_kernels_and_positions_stay_pruned(digits: Dataset, trained: nn.Module, tmp_path: Path) -> None:
    """Exactly 0.0 after steps with momentum and weight decay, and exactly as many as were asked for."""
    run = wanted(tmp_path / "slim.pt", digits, trained, {}, kernel_density=0.5, stride=2)
    slim, plan, record = search_all(run, trained)
    assert not plan.keep
    assert [search["granularity"] for search in record["searches"]] == ["kernel"] * 2 + ["strided"] * 3
    layers = {layer.name: layer for layer in count_weights(slim)}
    assert layers["0"].live_kernels == 12, "the layer that reads the images keeps its kernels"
    assert layers["3"].live_kernels == 12 * 16 // 2
    assert layers["6"].live_kernels == 16 * 16 // 2
    for name in ("0", "3", "6"):
        weight = slim.get_parameter(f"{name}.weight")
        taps = (weight != 0).flatten(2)
        kept = taps.any(0)  # of each source map
        assert set(kept.sum(1).tolist()) <= {4, 5}
        assert (taps == kept)[taps.any(2)].all(), "all live kernels of a map keep the same positions"
        assert layers[name].rows == int(kept.sum())
        assert layers[name].live == int((taps.any(2).int() * kept.sum(1)).sum())
        assert taps.any(2).any(1).all(), "every output map has a live kernel"
    assert record["convolutions"]["live"] == sum(layer.live for layer in layers.values())

    zero = {path: p == 0 for path, p in slim.named_parameters() if p.dim() == 4}
    method = keep_zeros(run.method, slim)
    images, labels = next(iter(digits.batches("train", data.Loader(64))))
    for mean in (None, 0.1):  # as the loop does it, then weights pushed off 0 by hand
        optimizer = torch.optim.SGD(slim.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(slim.train()(images), labels).backward()
            method.after_backward(slim)
            optimizer.step()
            if mean is not None:
                with torch.no_grad():
                    for parameter in slim.parameters():
                        parameter += mean
            method.after_step(slim)
            assert all(bool((slim.get_parameter(path)[gone] == 0.0).all()) for path, gone in zero.items())
            assert all(bool((slim.get_parameter(path)[~gone] != 0.0).all()) for path, gone in zero.items())


def test_a_layer_with_one_stride_for_each_axis_becomes_smaller(
    digits: Dataset, trained: nn.Module, tmp_path: Path
) -> None:
    run = wanted(tmp_path / "slim.pt", digits, trained, {"3": 8}, stride=2, per_axis=True, sharing="layer")
    slim, plan, record = search_all(run, trained)
    assert set(plan.taps) == {"0", "3", "6"}
    for name, taps in plan.taps.items():
        layer = slim.get_submodule(name)
        assert layer.weight.shape[2:] == (len(taps.rows), len(taps.columns)) == layer.kernel_size
        assert layer.kernel_size in {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert record["convolutions"]["live"] < record["convolutions"]["weights_before"] / 2
    again = as_checkpoint(slim, plan, network(), tmp_path)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(again(images), slim(images))


def test_what_costs_too_much_is_given_back(digits: Dataset, trained: nn.Module, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"stride": 9, "sharing": "layer", "layer_epochs": 0, "max_drop": 0.02}
    run = wanted(tmp_path / "slim.pt", digits, trained, {"0": 11}, **asked)
    pruned, _, record = search_all(replace(run, limits=Limits(include=("3", "6"))), trained)
    assert [(search["granularity"], search["kept"]) for search in record["searches"]] == [
        ("channel", True),
        ("strided", False),
        ("strided", False),
    ]
    assert all(layer.live == layer.weights for layer in count_weights(pruned)), "as before the searches"
    assert record["searches"][0]["val_top1"] == evaluate(pruned, digits, "val").top1
    with pytest.raises(CompressorError, match="given back: ask for less"):
        search_all(replace(run, counts={}, limits=Limits(include=("3", "6"))), trained)


@pytest.mark.parametrize("layer_epochs", [0, 1])
def test_what_costs_too_much_goes_back_step_by_step(
    layer_epochs: int, digits: Dataset, trained: nn.Module, tmp_path: Path
) -> None:
    """Spec 3: stop where the metric after retraining lies more than a point too low, and go back one step."""
    asked: dict[str, Any] = {"kernel_density": 0.07, "steps": 4, "hold": 0, "layer_epochs": layer_epochs}
    run = wanted(tmp_path / "slim.pt", digits, trained, {}, **asked, max_drop=0.05)
    lines: list[str] = []

    class Listening(Progress):
        def line(self, text: str) -> None:
            lines.append(text)

    run = replace(run, limits=Limits(include=("6",)), progress=Listening())
    slim, _, record = search_all(run, trained)
    (search,) = record["searches"]
    assert search["asked"] == round(0.93 * 256)
    assert search["pruned"] in {math.ceil(search["asked"] * step / 4) for step in (1, 2, 3)}
    (layer,) = (layer for layer in count_weights(slim) if layer.name == "6")
    assert layer.live_kernels == 256 - search["pruned"]
    before = evaluate(trained, digits, "val").top1
    assert search["val_top1"] == evaluate(slim, digits, "val").top1 >= before - 0.05
    assert any(f"stepped back from {search['asked']}" in line for line in lines)

    # Killed after it has stepped back, it goes on to the same bits.
    class Stopping(Progress):
        def line(self, text: str) -> None:
            if text.startswith("search 1/1"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_all(replace(run, progress=Stopping()), trained)
    again, _, same_record = search_all(run, trained, resume=True)
    assert same(slim, again)
    assert {**same_record["searches"][0], "seconds": 0} == {**search, "seconds": 0}


def test_a_stopped_run_goes_on_to_the_same_bits(digits: Dataset, trained: nn.Module, tmp_path: Path) -> None:
    counts = {"0": 6, "3": 8}
    asked: dict[str, Any] = {"kernel_density": 0.6, "layer_epochs": 2}
    whole, plan, record = search_all(wanted(tmp_path / "whole.pt", digits, trained, counts, **asked), trained)

    class Stopping(Progress):
        """Ctrl-C at a line; one that is longer than the searches says where."""

        def __init__(self, at: str) -> None:
            self.at = at

        def line(self, text: str) -> None:
            if text.startswith(self.at):
                raise KeyboardInterrupt

    output = tmp_path / "stopped.pt"
    run = wanted(output, digits, trained, counts, **asked)
    with pytest.raises(KeyboardInterrupt):
        search_all(replace(run, progress=Stopping("search 1, epoch 1/2")), trained)
    for at in ("search 1/4", "search 2, epoch 2/2", "search 3, epoch 1/2", "search 4/4"):
        with pytest.raises(KeyboardInterrupt):
            search_all(replace(run, progress=Stopping(at)), trained, resume=True)
    resumed, resumed_plan, resumed_record = search_all(run, trained, resume=True)
    assert same(whole, resumed)
    assert resumed_plan == plan
    for one, other in zip(record["searches"], resumed_record["searches"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    with pytest.raises(CheckpointError, match="other settings"):
        search_all(wanted(output, digits, trained, counts, kernel_density=0.5), trained, resume=True)


def test_searches_see_training_images_only_and_training_does_not_see_those(digits: Dataset) -> None:
    rest, batches = hold_out(digits, 200, seed=0)
    held = torch.cat([images for images, _ in batches])
    assert 195 <= len(held) <= 205  # each class's share is rounded
    assert rest.val is digits.val
    assert rest.test is digits.test
    assert len(rest.train) == len(digits.train) - len(held)
    same_again = torch.cat([images for images, _ in hold_out(digits, 200, seed=0)[1]])
    assert torch.equal(held, same_again)
    other = torch.cat([images for images, _ in hold_out(digits, 200, seed=1)[1]])
    assert not torch.equal(held, other)
    labels = torch.cat([labels for _, labels in batches]).bincount()
    assert labels.min() >= 15, "each class gives its share"
    at_most = sum(len(images) for images, _ in hold_out(digits, 10_000, seed=0)[1])
    assert 0.15 * len(digits.train) < at_most <= 0.2 * len(digits.train)
    sizes = {len(images) for images, _ in hold_out(digits, 10_000, seed=0)[1]}
    assert len(sizes) == 1


def test_images_of_the_callers_own_loaders() -> None:
    pairs = [(torch.full((3, 1, 8, 8), float(number)), {"label": torch.arange(3)}) for number in range(5)]
    dataset = data.from_loaders(pairs, pairs[:1], example=EXAMPLE)
    rest, batches = hold_out(dataset, 7, seed=0)
    assert rest is dataset
    ((images, labels),) = batches
    assert images[:, 0, 0, 0].tolist() == [0.0] * 3 + [1.0] * 3 + [2.0] * 3
    assert labels["label"].tolist() == [0, 1, 2] * 3


def test_the_filter_beats_the_median_random_mask(digits: Dataset, trained: nn.Module) -> None:
    graph = trace(trained, EXAMPLE)
    _, batches = hold_out(digits, 250, seed=0)
    target = channel_target(graph, graph.group("3"), 8)
    own = Evaluator(trained, batches, digits.task, searched=target.calls, aliases=graph.aliases)
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 16), dtype=np.int8)
    for mask in masks:
        mask[rng.choice(16, 8, replace=False)] = 1
    rates = own.errors(layer_masks([target], masks))
    settings = Structured(particles=20).filter_settings()
    found = search([target.block], lambda p: own.errors(layer_masks([target], p)), settings, seed=[0])
    assert found.error < np.median(rates)
    assert found.error <= rates.min(), "and the best of forty"


@pytest.mark.parametrize("per_channel", [False, True])
def test_storage_is_live_weights_steps_and_masks(
    per_channel: bool, digits: Dataset, trained: nn.Module, tmp_path: Path
) -> None:
    """Spec 6.10: live * bits + 32 per step + 1 bit a kernel + ceil(log2 s) + ceil(log2 s_max) bits a source map."""
    run = wanted(tmp_path / "slim.pt", digits, trained, {}, kernel_density=0.5, stride=2)
    slim, _, _ = search_all(replace(run, limits=Limits(include=("6",))), trained)
    (layer,) = (layer for layer in count_weights(slim) if layer.name == "6")
    weight = slim.get_parameter("6.weight").detach()
    stored = layer_storage("6.weight", quantise(weight, 5, axis=0 if per_channel else None))
    steps = 16 if per_channel else 1
    # Levels may round a live weight to 0; a mask is by kernels and strides, so it still counts as live.
    assert stored.live == layer.live
    assert stored.packed_bits == layer.live * 5 + 32 * steps + layer.kernels + 16 * (1 + 1)


def test_two_passes_with_one_seed_are_one(digits: Dataset, trained: nn.Module, tmp_path: Path) -> None:
    runs = [wanted(tmp_path / f"{number}.pt", digits, trained, {"3": 8}) for number in range(2)]
    first, second = (search_all(run, trained) for run in runs)
    assert same(first[0], second[0])
    other = replace(runs[0], settings=replace(SETTINGS, seed=1), output=tmp_path / "other.pt")
    assert search_all(other, trained)[1] != first[1] or not same(search_all(other, trained)[0], first[0])


def test_without_retraining_batch_norms_follow(digits: Dataset, trained: nn.Module, tmp_path: Path) -> None:
    run = wanted(tmp_path / "slim.pt", digits, trained, {"3": 12}, layer_epochs=0)
    slim, plan, _ = search_all(run, trained)
    cut = shrink(trained, run.graph, plan)
    assert torch.equal(slim.get_parameter("6.weight"), cut.get_parameter("6.weight"))
    assert not torch.equal(slim.get_buffer("7.running_mean"), cut.get_buffer("7.running_mean"))
    assert evaluate(slim, digits, "val").top1 > 0.5


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"kernel_density": 0.0}, r"kernel_density=0.0 is not in \(0, 1\]"),
        ({"sharing": "all"}, "sharing='all'; choose from: source, layer, none"),
        ({"particles": 1, "kappa": 0.0}, "particles=1 is below 2; kappa=0.0 is not above 0"),
    ],
)
def test_wrong_settings_are_named(
    fields: dict[str, Any], hint: str, digits: Dataset, trained: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(MethodError, match=hint):
        search_all(wanted(tmp_path / "slim.pt", digits, trained, {}, **fields), trained)
    assert not list(tmp_path.iterdir())


def test_a_network_without_kernels_to_lose(digits: Dataset, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    with pytest.raises(MethodError, match="can lose kernels"):
        search_all(wanted(tmp_path / "slim.pt", digits, model, {}, kernel_density=0.5), model)
