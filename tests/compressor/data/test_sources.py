import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from compressor import data
from compressor.data import Dataset, PhotoSplit, TensorSplit
from compressor.errors import DataError


def arrays(shape: tuple[int, ...] = (6, 6), classes: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "train_images": generator.integers(0, 256, (30, *shape), dtype=np.uint8),
        "train_labels": np.arange(30) % classes,
        "test_images": generator.integers(0, 256, (9, *shape), dtype=np.uint8),
        "test_labels": np.arange(9) % classes,
    }


def write(path: Path, **changes: np.ndarray | None) -> Path:
    values = {**arrays(), **changes}
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    return path


def test_digits_are_embedded() -> None:
    digits = data.load("digits")
    assert digits.preprocessing.size == (1, 8, 8)
    assert len(digits.classes) == 10
    assert len(digits.train) + len(digits.val) + len(digits.test) == 1797
    images, labels = next(digits.batches("train", data.Loader(500)))
    assert images.shape == (500, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_the_validation_split_depends_on_the_seed_only_and_the_test_split_on_nothing() -> None:
    first, again, other = data.load("digits"), data.load("digits"), data.load("digits", seed=1)

    def images(dataset: Dataset, split: data.SplitName) -> torch.Tensor:
        chosen = dataset.split(split)
        assert isinstance(chosen, TensorSplit)
        return chosen.images

    assert torch.equal(images(first, "val"), images(again, "val"))
    assert not torch.equal(images(first, "val"), images(other, "val"))
    assert torch.equal(images(first, "test"), images(other, "test"))


def test_the_validation_split_is_cut_out_of_the_training_data_class_by_class(tmp_path: Path) -> None:
    images = np.arange(30, dtype=np.uint8)[:, None, None].repeat(6, 1).repeat(6, 2)
    dataset = data.load(f"npz:{write(tmp_path / 'a.npz', train_images=images)}", val_fraction=0.2)
    assert dataset.val.labels.bincount().tolist() == [2, 2, 2]
    assert isinstance(dataset.train, TensorSplit)
    assert isinstance(dataset.val, TensorSplit)
    both = torch.cat([dataset.train.images, dataset.val.images])[:, 0, 0, 0]
    assert both.sort().values.tolist() == list(range(30))


@pytest.mark.parametrize(("shape", "channels"), [((6, 6), 1), ((6, 6, 1), 1), ((6, 6, 3), 3)])
def test_npz_images_are_grey_or_have_channels_last(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    path = tmp_path / "some.npz"
    values = arrays(shape)
    np.savez(path, **values, classes=np.array(["a", "b", "c"]))
    dataset = data.load(f"npz:{path}")
    assert dataset.classes == ("a", "b", "c")
    assert dataset.preprocessing.size == (channels, 6, 6)
    assert isinstance(dataset.test, TensorSplit)
    expected = values["test_images"].reshape(9, 6, 6, channels)
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"test_labels": None, "train_images": None},
            r"lacks train_images, test_labels \(it has train_labels",
        ),
        ({"train_images": np.zeros((30, 6, 6), np.float32)}, "train_images is float32, not uint8"),
        ({"train_images": np.zeros((30, 6), np.uint8)}, r"train_images has shape \(30, 6\)"),
        ({"train_images": np.zeros((30, 3, 6, 6), np.uint8)}, "6 channels in its last axis"),
        ({"train_images": np.zeros((30, 7, 7), np.uint8)}, r"differ in shape: \(7, 7\) and \(6, 6\)"),
        ({"train_labels": np.zeros(29, np.int64)}, r"train_labels has shape \(29,\) for 30 images"),
        ({"train_labels": np.zeros(30)}, "train_labels is float64, not integer"),
        ({"test_labels": np.full(9, 3)}, "test_labels run from 3 to 3, outside 0 to 2"),
        ({"train_labels": np.arange(30) % 3 - 1}, "train_labels run from -1 to 1"),
        ({"classes": np.array(["a", "b"])}, "train_labels run from 0 to 2, outside 0 to 1"),
        (
            {"train_images": np.zeros((30, 6), np.int8), "test_labels": np.zeros((9, 2))},
            "train_images is int8.*train_images has shape.*test_labels is float64.*test_labels has shape",
        ),
    ],
)
def test_wrong_arrays_are_all_named_in_one_line(
    tmp_path: Path, changes: dict[str, np.ndarray | None], expected: str
) -> None:
    path = write(tmp_path / "wrong.npz", **changes)
    with pytest.raises(DataError, match=expected) as caught:
        data.load(f"npz:{path}")
    message = str(caught.value)
    assert str(path) in message
    assert "expected train_images" in message
    assert "\n" not in message


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "good.npz")
    content = path.read_bytes()
    cut, other, flipped = (tmp_path / name for name in ("cut.npz", "other.npz", "flipped.npz"))
    cut.write_bytes(content[: len(content) // 2])
    other.write_text("a,b,c")
    middle = len(content) // 4
    flipped.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{**arrays(), "train_labels": np.array([None] * 30)})
    for wrong, expected in (
        (cut, "not a complete .npz"),
        (other, "not a complete .npz"),
        (tmp_path, "not a complete .npz"),
        (tmp_path / "nowhere.npz", "no file"),
        (flipped, "cannot be read as .npz"),
        (pickled, "cannot be read as .npz"),
    ):
        with pytest.raises(DataError, match=expected) as caught:
            data.load(f"npz:{wrong}")
        assert str(wrong) in str(caught.value)


@pytest.mark.parametrize("spec", ["digit", "digits:somewhere", "cifar10", "cifar10:", "imagenet:x", ""])
def test_an_unknown_name_lists_what_is_allowed(spec: str) -> None:
    with pytest.raises(DataError, match=re.escape("choose from: digits, cifar10:PATH")):
        data.load(spec)


def test_cifar_npz_uses_published_statistics_and_flips(tmp_path: Path) -> None:
    path = tmp_path / "cifar.npz"
    np.savez(path, **arrays((32, 32, 3)))
    dataset = data.load(f"cifar10:{path}")
    assert dataset.preprocessing.mean == (0.4914, 0.4822, 0.4465)
    assert isinstance(dataset.train, TensorSplit)
    assert dataset.train.augmentation == data.Augmentation(crop_padding=4, flip=True)


def test_an_npz_that_is_not_cifar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not cifar10: it has images 1×6×6 in 3 classes"):
        data.load(f"cifar10:{write(tmp_path / 'small.npz')}")


def test_cifar_folder_is_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: CIFAR10, root: Path, *, train: bool, download: bool) -> None:
        assert not download
        self.data = np.full((20 if train else 4, 32, 32, 3), 9, np.uint8)
        self.targets = [place % 2 for place in range(len(self.data))]
        self.classes = ["cat", "dog"]

    monkeypatch.setattr(CIFAR10, "__init__", read)
    dataset = data.load(f"cifar10:{tmp_path}")
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (18, 2, 4)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_absent_or_empty_cifar_folder_is_named(tmp_path: Path, name: str) -> None:
    for path, expected in ((tmp_path / "nowhere", "no folder"), (tmp_path, f"not a complete {name} folder")):
        with pytest.raises(DataError, match=expected) as caught:
            data.load(f"{name}:{path}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_validation_split_is_never_empty_or_everything(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        data.load("digits", val_fraction=fraction)


def test_image_folders_load_as_photos(tmp_path: Path) -> None:
    from PIL import Image

    for part in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (20, 12), (number, 0, 0)).save(tmp_path / part / name / f"{number}.png")
    dataset = data.load(f"imagefolder:{tmp_path}", val_fraction=0.25, image_side=16)
    assert dataset.classes == ("ant", "bee")
    assert isinstance(dataset.train, PhotoSplit)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (6, 2, 8)
    images, labels = next(dataset.batches("test", data.Loader(8)))
    assert images.shape == (8, 3, 16, 16)
    assert labels.tolist() == [0] * 4 + [1] * 4
