"""Small-image data sets from one `.npz` file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from compressor.errors import DataError

__all__ = ["LabelledArrays", "read_npz"]

# (train images, train labels, test images, test labels): uint8 (N, C, H, W) and int64 (N,)
LabelledArrays = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_EXPECTED = "expected train_images, test_images uint8 (N, H, W) or (N, H, W, C) and train_labels, test_labels (N,)"


def read_npz(path: Path) -> tuple[LabelledArrays, tuple[str, ...]]:
    """Returns the arrays and the class names; names are 0, 1, … where the file has no `classes`.

    Raises:
        DataError: The file is absent, not an `.npz`, cut short, or its arrays are not as expected; all
            problems are listed.
    """
    arrays = _load(path)
    problems = [
        *_image_problems(arrays, "train"),
        *_image_problems(arrays, "test"),
        *_label_problems(arrays, "train"),
        *_label_problems(arrays, "test"),
    ]
    if not problems and arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        shapes = f"{arrays['train_images'].shape[1:]} and {arrays['test_images'].shape[1:]}"
        problems.append(f"train and test images differ in shape: {shapes}")
    if not problems:
        problems += _class_problems(arrays)
    if problems:
        raise DataError(f"{path}: {'; '.join(problems)}; {_EXPECTED}")
    num_classes = int(max(arrays["train_labels"].max(), arrays["test_labels"].max())) + 1
    classes = arrays.get("classes", np.arange(num_classes))
    tensors = (
        _images(arrays["train_images"]),
        torch.from_numpy(arrays["train_labels"].astype(np.int64)),
        _images(arrays["test_images"]),
        torch.from_numpy(arrays["test_labels"].astype(np.int64)),
    )
    return tensors, tuple(_text(name) for name in classes)


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise DataError(f"no file {path}; give the path of an .npz file")
    if path.is_dir() or not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not a complete .npz file (cut short, or another format)")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in _KEYS if key not in file.files]
            if missing:
                has = ", ".join(file.files) or "nothing"
                raise DataError(f"{path} lacks {', '.join(missing)} (it has {has}); {_EXPECTED}")
            return {key: file[key] for key in (*_KEYS, "classes") if key in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from error


def _image_problems(arrays: dict[str, np.ndarray], part: str) -> list[str]:
    images = arrays[f"{part}_images"]
    problems = []
    if images.dtype != np.uint8:
        problems.append(f"{part}_images is {images.dtype}, not uint8")
    if images.ndim not in (3, 4) or 0 in images.shape:
        problems.append(f"{part}_images has shape {images.shape}")
    elif images.ndim == 4 and images.shape[3] > 4:
        problems.append(f"{part}_images has {images.shape[3]} channels in its last axis (at most 4)")
    return problems


def _label_problems(arrays: dict[str, np.ndarray], part: str) -> list[str]:
    labels, num_images = arrays[f"{part}_labels"], len(arrays[f"{part}_images"])
    problems = []
    if not np.issubdtype(labels.dtype, np.integer):
        problems.append(f"{part}_labels is {labels.dtype}, not integer")
    if labels.shape != (num_images,):
        problems.append(f"{part}_labels has shape {labels.shape} for {num_images} images")
    return problems


def _class_problems(arrays: dict[str, np.ndarray]) -> list[str]:
    num_classes = len(arrays["classes"]) if "classes" in arrays else int(arrays["train_labels"].max()) + 1
    problems = []
    for part in ("train", "test"):
        labels = arrays[f"{part}_labels"]
        if labels.min() < 0 or labels.max() >= num_classes:
            span = f"{labels.min()} to {labels.max()}"
            problems.append(f"{part}_labels run from {span}, outside 0 to {num_classes - 1}")
    return problems


def _images(images: np.ndarray) -> torch.Tensor:
    images = images[..., None] if images.ndim == 3 else images
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _text(name: object) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
