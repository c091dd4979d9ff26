from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.data import Loader, Preprocessing
from compressor.data.photos import PhotoSplit, list_folder
from compressor.errors import DataError

SMALL = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, size=(3, 16, 16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            pixels = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.JPEG")
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    return tmp_path


def walk(split: PhotoSplit, loader: Loader) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(split.batches(loader, SMALL))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_files_are_listed_by_class(folder: Path) -> None:
    classes, split = list_folder(folder)
    assert classes == ("ant", "bee")
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [path.name for path in split.paths] == ["0.JPEG", "1.JPEG", "2.JPEG"] * 2


def test_evaluation_is_in_order_and_always_the_same(folder: Path) -> None:
    _, split = list_folder(folder)
    images, labels = walk(split, Loader(4))
    assert images.shape == (6, 3, 16, 16)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.abs().max() <= 1.0
    assert torch.equal(images, walk(split, Loader(4))[0])


def test_augmentation_depends_on_seed_and_epoch_not_on_worker_processes(folder: Path) -> None:
    _, split = list_folder(folder)
    first = walk(split, Loader(2, shuffle=True, augment=True, seed=1))[0]
    in_workers = walk(split, Loader(2, shuffle=True, augment=True, seed=1, num_workers=1))[0]
    later = walk(split, Loader(2, shuffle=True, augment=True, seed=1, epoch=1))[0]
    assert torch.equal(first, in_workers)
    assert not torch.equal(first, later)


def test_the_global_random_state_is_left_alone(folder: Path) -> None:
    _, split = list_folder(folder)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    walk(split, Loader(2, shuffle=True, augment=True))
    assert torch.equal(torch.rand(3), expected)


def test_ranks_share_each_batch(folder: Path) -> None:
    _, split = list_folder(folder)
    labels = [walk(split, Loader(4, rank=rank, num_ranks=2))[1].tolist() for rank in (0, 1)]
    assert labels == [[0, 0, 1], [0, 1, 1]]


def test_wrong_folders_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        list_folder(folder / "nowhere")
    with pytest.raises(DataError, match="has no folders; expected one folder per class"):
        list_folder(folder / "ant")
    with pytest.raises(DataError, match="differ in classes: bee, cat"):
        list_folder(folder, ("ant", "cat"))
    (folder / "cow").mkdir()
    (folder / "dog").mkdir()
    with pytest.raises(DataError, match=r"has no images .* in: cow, dog"):
        list_folder(folder)


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "bee" / "1.JPEG").write_bytes(b"\xff\xd8 cut")
    _, split = list_folder(folder)
    with pytest.raises(DataError, match=r"1\.JPEG cannot be decoded"):
        walk(split, Loader(6))
