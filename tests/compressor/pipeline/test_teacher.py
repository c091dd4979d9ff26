"""A network given in Python to imitate: with a softmax at its end it teaches what it teaches without."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressor.checkpoint import CompressedCheckpoint
from compressor.data import Preprocessing
from compressor.errors import CompressorError
from compressor.pipeline.teacher import Distillation, load_teacher

SIZE = (1, 6, 6)


def network(seed: int, *end: nn.Module) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3), *end)


def held(model: nn.Module) -> CompressedCheckpoint:
    """As `compressor.compress` holds the caller's network."""
    preprocessing = Preprocessing((0.0,), (1.0,), SIZE)
    return CompressedCheckpoint("", {}, preprocessing, (), dict(model.state_dict()), base=model)


def test_a_softmax_at_the_end_is_undone() -> None:
    images, labels = torch.randn(8, *SIZE), torch.arange(8) % 3
    losses = []
    for end in ((), (nn.Softmax(dim=1),)):
        student, teacher = network(0, *end), network(1, *end)
        found = load_teacher(Distillation(teacher, temperature=2.0), held(student))
        assert found is not None
        task = F.cross_entropy(network(0)(images), labels)  # the caller's own loss
        losses.append(found.mix(task, student(images), images).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_neither_network_is_changed() -> None:
    student, teacher = network(0).train(), network(1, nn.BatchNorm1d(3)).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    state = torch.get_rng_state()
    load_teacher(Distillation(teacher), held(student))
    assert teacher.training
    assert student.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("ends", [(nn.Softmax(dim=1), nn.Identity()), (nn.Identity(), nn.Softmax(dim=1))])
def test_one_softmax_of_two_is_refused(ends: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = (network(seed, end) for seed, end in enumerate(ends))
    with pytest.raises(CompressorError, match="only one ends in a softmax; both must, or none"):
        load_teacher(Distillation(teacher), held(student))
