import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressor.data import Dataset, Loader, Preprocessing, TensorSplit
from compressor.errors import CompressorError
from compressor.train import Teacher, TrainSettings, train
from compressor.train.distillation import divergence


def network(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorSplit:
        images = torch.randint(0, 255, (count, 1, 8, 8), generator=generator).to(torch.uint8)
        return TensorSplit(images, torch.arange(count) % 3)

    return Dataset("noise", ("a", "b", "c"), Preprocessing((0.5,), (0.3,), (1, 8, 8)), split(48), split(12), split(12))


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 6)])
def test_divergence_is_zero_for_equal_answers_and_positive_otherwise(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    wanted = torch.randn(shape)
    # A constant added to all logits of a place changes no answer.
    same = wanted + torch.randn(shape[0], 1, *shape[2:])
    assert divergence(same, wanted, 3.0).item() == pytest.approx(0, abs=1e-6)
    assert divergence(torch.randn(shape), wanted, 3.0).item() > 0.1


def test_divergence_at_temperature_one_is_kl() -> None:
    torch.manual_seed(1)
    outputs, wanted = torch.randn(6, 4), torch.randn(6, 4)
    p, q = F.softmax(wanted, 1), F.softmax(outputs, 1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert divergence(outputs, wanted, 1.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_keeps_its_size_over_temperatures() -> None:
    """For small logits the gradient of T²·KL tends to the same limit, whatever T (Hinton et al., section 2.1)."""
    torch.manual_seed(2)
    outputs, wanted = 0.01 * torch.randn(8, 5), 0.01 * torch.randn(8, 5)
    gradients = []
    for temperature in (1.0, 8.0):
        leaf = outputs.clone().requires_grad_()
        divergence(leaf, wanted, temperature).backward()
        gradients.append(leaf.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=0.05, atol=1e-6)


def test_weight_zero_is_training_without_a_teacher(dataset: Dataset) -> None:
    settings = TrainSettings(epochs=1, batch_size=16, peak_lr=0.05, precision="32")
    alone, taught = network(0), network(0)
    train(alone, dataset, settings=settings)
    train(taught, dataset, settings=settings, teacher=Teacher(network(1), weight=0.0))
    assert all(torch.allclose(a, b) for a, b in zip(alone.parameters(), taught.parameters(), strict=True))


def test_the_student_comes_nearer_to_its_teacher_and_leaves_it_alone(dataset: Dataset) -> None:
    teacher = network(1)
    with torch.no_grad():
        teacher[4].weight.mul_(20)  # type: ignore[index]  # answers that differ from image to image
    before = [parameter.clone() for parameter in teacher.parameters()]
    images, _ = next(dataset.batches("val", Loader(12)))
    settings = TrainSettings(epochs=8, batch_size=16, peak_lr=0.1, precision="32", keep="last")
    student = network(2)
    far = divergence(student(images), teacher(images), 1.0).item()
    record = train(student, dataset, settings=settings, teacher=Teacher(teacher, weight=1.0))
    assert divergence(student(images), teacher(images), 1.0).item() < far
    assert math.isfinite(record.epochs[-1].train_loss)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_what_cannot_be_imitated_is_refused(dataset: Dataset) -> None:
    settings = TrainSettings(epochs=1, batch_size=16, precision="32")
    with pytest.raises(CompressorError, match=r"teacher returns \(16, 5\)"):
        train(network(0), dataset, settings=settings, teacher=Teacher(network(1, classes=5)))
    with pytest.raises(CompressorError, match="from 0 to 1"):
        Teacher(network(0), weight=1.5)
    with pytest.raises(CompressorError, match="above 0"):
        Teacher(network(0), temperature=0.0)
