import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.data import Augmentation, Dataset, Preprocessing, TensorSplit
from compressor.errors import CheckpointError, CompressorError
from compressor.train import TrainRecord, TrainSettings, evaluate, resume_path, train

SETTINGS = TrainSettings(epochs=3, batch_size=16, peak_lr=0.05, precision="32", seed=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads may differ in their last bit from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Two classes, brighter and darker images: easy, but not solved by the first step."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorSplit:
        labels = torch.arange(count) % 2
        noise = torch.randint(0, 150, (count, 1, 8, 8), generator=generator)
        images = (noise + 40 * labels[:, None, None, None]).to(torch.uint8)
        return TensorSplit(images, labels, Augmentation(crop_padding=1, flip=True))

    preprocessing = Preprocessing((0.35,), (0.2,), (1, 8, 8))
    return Dataset("easy", ("dark", "bright"), preprocessing, split(64), split(32), split(32))


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def without_times(record: TrainRecord) -> TrainRecord:
    epochs = tuple(dataclasses.replace(epoch, seconds=0.0) for epoch in record.epochs)
    return dataclasses.replace(record, epochs=epochs)


class Killer:
    """A method that ends the run after a number of steps; its other hooks do nothing."""

    def __init__(self, steps: int) -> None:
        self.steps_left = steps

    def parameters(self, model: nn.Module) -> None:
        return None

    def penalty(self, model: nn.Module) -> None:
        return None

    def after_backward(self, model: nn.Module) -> None:
        pass

    def after_step(self, model: nn.Module) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise KeyboardInterrupt


def test_it_learns_and_says_what_happened(dataset: Dataset) -> None:
    model = network()
    record = train(model, dataset, settings=dataclasses.replace(SETTINGS, epochs=10))
    assert len(record.epochs) == 10
    assert record.epochs[-1].train_loss < record.epochs[0].train_loss
    assert record.val_top1 == max(epoch.val_top1 for epoch in record.epochs) > 0.9
    assert evaluate(model, dataset, "val").top1 == record.val_top1, "the kept weights are the kept epoch's"
    assert record.precision.startswith("32")


def test_the_same_seed_gives_the_same_run_and_another_seed_another(dataset: Dataset) -> None:
    models = [network(), network(), network()]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        train(model, dataset, settings=dataclasses.replace(SETTINGS, epochs=1, seed=seed))
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_the_callers_random_state_is_left_alone(dataset: Dataset) -> None:
    model = network()
    before = torch.get_rng_state()
    train(model, dataset, settings=dataclasses.replace(SETTINGS, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("steps", [2, 4, 6, 11])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    dataset: Dataset, tmp_path: Path, steps: int, keep: str
) -> None:
    """Four steps are an epoch: killed in the first, on a border, in the second, in the last step."""
    settings = dataclasses.replace(SETTINGS, keep=keep)
    whole, parts = network(), network()
    expected = train(whole, dataset, settings=settings)
    path = tmp_path / "model.pt"
    with pytest.raises(KeyboardInterrupt):
        train(parts, dataset, settings=settings, method=Killer(steps), checkpoint_path=path)
    resumed = network()
    nn.init.ones_(resumed[0].weight)  # nothing of a fresh process's weights may be left
    record = train(resumed, dataset, settings=settings, checkpoint_path=path, resume=True)
    assert same_weights(resumed, whole)
    assert without_times(record) == without_times(expected)


def test_resuming_a_finished_run_gives_its_weights_again(dataset: Dataset, tmp_path: Path) -> None:
    first, again = network(), network()
    record = train(first, dataset, settings=SETTINGS, checkpoint_path=tmp_path / "model.pt")
    same = train(again, dataset, settings=SETTINGS, checkpoint_path=tmp_path / "model.pt", resume=True)
    assert same_weights(first, again)
    assert same == record


def test_resuming_without_or_with_a_damaged_state_says_so(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"

    def resume(settings: TrainSettings = SETTINGS) -> None:
        train(network(), dataset, settings=settings, checkpoint_path=path, resume=True)

    with pytest.raises(CheckpointError, match=r"nothing to resume: no file .*model\.pt\.resume"):
        resume()
    train(network(), dataset, settings=dataclasses.replace(SETTINGS, epochs=1), checkpoint_path=path)
    with pytest.raises(CheckpointError, match=r"other settings: epochs was 1, is 3; peak_lr was 0\.05, is 0\.1"):
        resume(dataclasses.replace(SETTINGS, peak_lr=0.1))
    state = resume_path(path)
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="not the complete state"):
        resume()
    torch.save({"weights": torch.zeros(1)}, state)
    with pytest.raises(CheckpointError, match="another version"):
        resume()
    with pytest.raises(ValueError, match="needs checkpoint_path"):
        train(network(), dataset, settings=SETTINGS, resume=True)


class Recorder(Killer):
    """Counts its hooks, trains only the last layer, and adds a penalty."""

    def __init__(self) -> None:
        super().__init__(steps=1000)
        self.calls: list[str] = []

    def parameters(self, model: nn.Module) -> list[dict[str, object]]:  # type: ignore[override]
        return [{"params": [model.get_parameter("6.weight")], "lr": 0.5}]

    def penalty(self, model: nn.Module) -> torch.Tensor:  # type: ignore[override]
        self.calls.append("penalty")
        return 100 + 0 * model.get_parameter("6.weight").sum()

    def after_backward(self, model: nn.Module) -> None:
        gradient = model.get_parameter("6.weight").grad
        self.calls.append("after_backward")
        assert gradient is not None

    def after_step(self, model: nn.Module) -> None:
        self.calls.append("after_step")


def test_a_method_takes_part_through_its_hooks(dataset: Dataset) -> None:
    model, method = network(), Recorder()
    before = {name: value.clone() for name, value in model.named_parameters()}
    record = train(model, dataset, settings=dataclasses.replace(SETTINGS, epochs=1), method=method)
    assert method.calls == ["penalty", "after_backward", "after_step"] * 4
    assert record.epochs[0].train_loss > 100
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"6.weight"}


def test_before_epoch_comes_also_after_a_resume_and_early_epochs_are_not_kept(dataset: Dataset, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, settle_epochs=2)
    seen: list[int] = []

    def note(model: nn.Module, epoch: int) -> None:
        seen.append(epoch)
        if epoch == 1 and seen.count(1) == 1:
            raise KeyboardInterrupt

    for resume in (False, True):
        arguments = {"settings": settings, "checkpoint_path": tmp_path / "model.pt", "before_epoch": note}
        if resume:
            record = train(network(), dataset, resume=True, **arguments)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(network(), dataset, **arguments)
    assert seen == [0, 1, 1, 2]
    assert record.kept_epoch == 3


def test_clipping_bounds_the_first_step(dataset: Dataset) -> None:
    """Plain gradient descent at a constant rate: the weights move by at most rate × norm."""
    settings = dataclasses.replace(
        SETTINGS, epochs=1, batch_size=64, clip_norm=1e-3, momentum=0.0, weight_decay=0.0, peak_lr=1.0
    )
    settings = dataclasses.replace(settings, warmup_fraction=1.0, keep="last")
    model = network()
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    train(model, dataset, settings=settings)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert 0 < moved.norm() <= 1.001e-3


def test_divergence_at_once_is_said_and_leaves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, peak_lr=1e30)
    with pytest.raises(CompressorError, match=r"diverged in epoch 1.*lower peak_lr \(it is 1e\+30\)"):
        train(network(), dataset, settings=settings, checkpoint_path=tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


class Poisoner(Killer):
    """A method after which the weights are no numbers."""

    def after_step(self, model: nn.Module) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)


def test_divergence_later_leaves_the_last_good_state(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="diverged in epoch 2"):
        train(network(), dataset, settings=SETTINGS, method=Poisoner(5), checkpoint_path=tmp_path / "model.pt")
    state = torch.load(resume_path(tmp_path / "model.pt"), weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values())


def test_evaluation_counts_what_is_right_and_changes_nothing(dataset: Dataset) -> None:
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([2.0, 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return self.logits.expand(len(x), 2)

    model = Always().train()
    result = evaluate(model, dataset, "test", batch_size=5)
    assert result.top1 == 0.5
    assert result.num_images == 32
    expected = torch.nn.functional.cross_entropy(torch.tensor([[2.0, 0.0]] * 2), torch.tensor([0, 1]))
    assert result.loss == pytest.approx(float(expected))
    assert model.training


def test_resuming_with_another_network_says_so(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    settings = dataclasses.replace(SETTINGS, epochs=1)
    train(network(), dataset, settings=settings, checkpoint_path=path)
    with pytest.raises(CheckpointError, match="another network"):
        train(nn.Linear(3, 2), dataset, settings=settings, checkpoint_path=path, resume=True)
