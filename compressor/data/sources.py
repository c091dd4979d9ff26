"""From a text such as `cifar10:PATH` to a data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from compressor.data.arrays import LabelledArrays, read_npz
from compressor.data.dataset import Augmentation, Dataset, Preprocessing
from compressor.data.order import validation_split
from compressor.data.photos import PhotoSplit, list_folder
from compressor.data.small_images import TensorSplit, mean_and_std
from compressor.data.unlabelled import UNLABELLED, read_images, read_pictures, split_off_test
from compressor.errors import DataError

__all__ = ["FORMS", "load"]

# What a user may write, and what each stands for.
FORMS = {
    "digits": "scikit-learn's 8×8 digits, embedded",
    "cifar10:PATH": "torchvision's folder or one .npz",
    "cifar100:PATH": "torchvision's folder or one .npz",
    "imagefolder:PATH": "train/CLASS/*.jpg and val/CLASS/*.jpg",
    "npz:PATH": "train_images, train_labels, test_images, test_labels",
    "images:PATH": "pictures without labels, for a trained network: a folder, .npz or .npy",
}

# torchvision's reader and the published mean and std over all 50,000 training images.
_CIFAR = {
    "cifar10": (CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": (CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_PHOTO_SIDE = 224  # pixels, what torchvision's classifiers are made for
_CROP_PADDING_FRACTION = 1 / 8  # of the side: 4 pixels at 32×32, as He et al. 2016
_DIGITS_TEST_FRACTION = 0.2


def load(spec: str, *, seed: int = 0, val_fraction: float = 0.1, image_side: int = _PHOTO_SIDE) -> Dataset:
    """Returns the data set that a text names.

    The validation split is cut out of the training data, each class by its share; it depends on `seed` and
    the data alone.

    Args:
        spec: One of `FORMS`.
        seed: Chooses the validation images.
        val_fraction: Part of the training data held out, in (0, 1).
        image_side: Height and width that photos are brought to, pixels; small images keep their size.

    Raises:
        DataError: The text names no data set, or the data is absent or damaged; says the file and what was
            expected.
        ValueError: `val_fraction` is not in (0, 1).
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}; it must lie between 0 and 1")
    name, colon, place = spec.partition(":")
    path = Path(place).expanduser()
    if spec == "digits":
        arrays, classes = _digits(), tuple(str(digit) for digit in range(10))
        return _small_images(spec, arrays, classes, flip=False, seed=seed, val_fraction=val_fraction)
    if not colon or not place or f"{name}:PATH" not in FORMS:
        raise DataError(f"unknown data '{spec}'; choose from: {', '.join(FORMS)}")
    if name == "images":
        return _without_labels(spec, path, image_side, seed=seed, val_fraction=val_fraction)
    if name == "imagefolder":
        return _image_folder(spec, path, image_side, seed=seed, val_fraction=val_fraction)
    if name in _CIFAR and path.suffix != ".npz":
        arrays, classes = _cifar_folder(name, path)
    else:
        arrays, classes = read_npz(path)
    if name in _CIFAR:
        _check_cifar(name, path, arrays, classes)
    # Colour pictures of CIFAR may be mirrored; what an unknown .npz holds may be text.
    return _small_images(spec, arrays, classes, flip=name in _CIFAR, seed=seed, val_fraction=val_fraction)


def _small_images(
    spec: str,
    arrays: LabelledArrays,
    classes: tuple[str, ...],
    *,
    flip: bool,
    seed: int,
    val_fraction: float,
) -> Dataset:
    images, labels, test_images, test_labels = arrays
    train, val = validation_split(labels, fraction=val_fraction, seed=seed)
    channels, height, width = images.shape[1:]
    _, mean, std = _CIFAR.get(spec.partition(":")[0], (None, *mean_and_std(images[train])))
    augmentation = Augmentation(crop_padding=round(min(height, width) * _CROP_PADDING_FRACTION), flip=flip)
    return Dataset(
        name=spec,
        classes=classes,
        preprocessing=Preprocessing(mean, std, (channels, height, width)),
        train=TensorSplit(images[train], labels[train], augmentation),
        val=TensorSplit(images[val], labels[val]),
        test=TensorSplit(test_images, test_labels),
    )


def _image_folder(spec: str, path: Path, image_side: int, *, seed: int, val_fraction: float) -> Dataset:
    classes, training = list_folder(path / "train")
    _, test = list_folder(path / "val", classes)
    train, val = validation_split(training.labels, fraction=val_fraction, seed=seed)
    return Dataset(
        name=spec,
        classes=classes,
        preprocessing=Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD, (3, image_side, image_side)),
        train=_subset(training, train),
        val=_subset(training, val),
        test=test,
    )


def _without_labels(spec: str, path: Path, image_side: int, *, seed: int, val_fraction: float) -> Dataset:
    """All splits out of the same images, unless an array says which are for the test."""
    if path.suffix not in (".npz", ".npy"):
        pictures = read_pictures(path)
        rest, test_places = split_off_test(len(pictures))
        training = _subset(pictures, rest)
        train, val = validation_split(training.labels, fraction=val_fraction, seed=seed)
        return Dataset(
            name=spec,
            classes=(),
            preprocessing=Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD, (3, image_side, image_side)),
            train=_subset(training, train),
            val=_subset(training, val),
            test=_subset(pictures, test_places),
            task=UNLABELLED,
        )
    images, test = read_images(path)
    if test is None:
        rest, test_places = split_off_test(len(images))
        images, test = images[rest], images[test_places]
    arrays = (images, torch.zeros(len(images), dtype=torch.int64), test, torch.zeros(len(test), dtype=torch.int64))
    dataset = _small_images(spec, arrays, (), flip=False, seed=seed, val_fraction=val_fraction)
    return replace(dataset, task=UNLABELLED)


def _subset(split: PhotoSplit, places: torch.Tensor) -> PhotoSplit:
    return PhotoSplit(tuple(split.paths[place] for place in places.tolist()), split.labels[places])


def _digits() -> LabelledArrays:
    # scikit-learn takes a second to import and only this data set needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    # The test images are the same whatever the seed of the validation split.
    train, test = validation_split(labels, fraction=_DIGITS_TEST_FRACTION, seed=0)
    return images[train], labels[train], images[test], labels[test]


def _cifar_folder(name: str, path: Path) -> tuple[LabelledArrays, tuple[str, ...]]:
    reader = _CIFAR[name][0]
    expected = f"expected torchvision's folder (with {reader.base_folder}/ in it) or one .npz"
    if not path.exists():
        raise DataError(f"no folder {path}; {expected}")
    try:
        # torchvision compares checksums before it unpickles anything.
        parts = [reader(path, train=train, download=False) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(f"{path} is not a complete {name} folder: {error}; {expected}") from error
    images = [torch.from_numpy(part.data.transpose(0, 3, 1, 2).copy()) for part in parts]
    labels = [torch.tensor(part.targets) for part in parts]
    return (images[0], labels[0], images[1], labels[1]), tuple(parts[0].classes)


def _check_cifar(name: str, path: Path, arrays: LabelledArrays, classes: tuple[str, ...]) -> None:
    num_classes = int(name.removeprefix("cifar"))
    shape = tuple(arrays[0].shape[1:])
    if shape != (3, 32, 32) or len(classes) > num_classes:
        came = f"images {'×'.join(map(str, shape))} in {len(classes)} classes"
        expected = f"expected 3×32×32 in {num_classes}; give other data as npz:PATH"
        raise DataError(f"{path} is not {name}: it has {came}, {expected}")
