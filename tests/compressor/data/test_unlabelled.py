"""Images without labels: their splits, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.data import UNLABELLED, Loader, load
from compressor.data.dataset import Preprocessing
from compressor.errors import DataError


def pictures(folder: Path, count: int) -> Path:
    for number in range(count):
        place = folder / f"part{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.full((12, 10, 3), number, np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def test_every_image_is_in_one_split(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", np.arange(50, dtype=np.uint8).repeat(16).reshape(50, 4, 4))
    dataset = load(f"images:{tmp_path / 'i.npy'}")
    assert dataset.task is UNLABELLED
    assert dataset.classes == ()
    exact = Preprocessing((0.0,), (1.0,), (1, 4, 4))
    seen = [
        round(float(image.mean()) * 255)
        for name in ("train", "val", "test")
        for images, _ in dataset.split(name).batches(Loader(7), exact)  # type: ignore[arg-type]
        for image in images
    ]
    assert sorted(seen) == list(range(50))


def test_the_test_images_do_not_depend_on_the_seed(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=np.random.default_rng(0).integers(0, 255, (40, 4, 4, 3), dtype=np.uint8))
    one, other = (load(f"images:{tmp_path / 'i.npz'}", seed=seed) for seed in (0, 1))
    assert torch.equal(one.test.images, other.test.images)  # type: ignore[attr-defined]
    assert not torch.equal(one.val.images, other.val.images)  # type: ignore[attr-defined]


def test_a_labelled_file_gives_its_own_test_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "i.npz", train_images=images[:15], train_labels=np.zeros(15, int), test_images=images[15:])
    dataset = load(f"images:{tmp_path / 'i.npz'}")
    assert len(dataset.test) == 5
    assert len(dataset.train) + len(dataset.val) == 15


def test_pictures_in_any_folders_at_any_size(tmp_path: Path) -> None:
    dataset = load(f"images:{pictures(tmp_path, 20)}")
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [16, 2, 2]
    images, _ = next(dataset.split("val").batches(Loader(2), Preprocessing((0.0,) * 3, (1.0,) * 3, (3, 6, 4))))
    assert images.shape == (2, 3, 6, 4)


def test_there_is_nothing_to_learn_until_someone_answers(tmp_path: Path) -> None:
    dataset = load(f"images:{pictures(tmp_path, 9)}")
    with pytest.raises(DataError, match="no labels"):
        dataset.task.loss(torch.zeros(2, 3), torch.zeros(2))


def text(path: Path) -> None:
    path.write_text("pancakes")


def few(path: Path) -> None:
    np.savez(path, images=np.zeros((2, 4, 4), np.uint8))


def floats(path: Path) -> None:
    np.savez(path, images=np.zeros((9, 4, 4)))


def many_channels(path: Path) -> None:
    np.savez(path, images=np.zeros((9, 4, 4, 7), np.uint8))


def several(path: Path) -> None:
    np.savez(path, a=np.zeros((9, 4, 4), np.uint8), b=np.zeros((9, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (text, "cannot be read"),
        (few, "2 images"),
        (floats, "float64"),
        (many_channels, "7 channels"),
        (several, "a, b"),
        (lambda path: None, "no file"),
    ],
)
def test_what_holds_no_images_is_one_line(make: object, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "i.npz"
    make(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=hint) as caught:
        load(f"images:{path}")
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 0 images"):
        load(f"images:{tmp_path}")
