"""Images without labels: what a network is to answer about them, another network says.

images:FOLDER      pictures, in any folders under it
images:FILE.npz    one array of uint8 images, or the arrays `train_images` and `test_images`
images:FILE.npy    one array of uint8 images
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compressor.data.order import validation_split
from compressor.data.photos import IMAGE_SUFFIXES, PhotoSplit
from compressor.data.task import Task
from compressor.errors import DataError

__all__ = ["UNLABELLED", "read_images", "read_pictures", "split_off_test"]

_TEST_FRACTION = 0.1
# The test images are the same whatever the seed of the validation split.
_TEST_SEED = 0
_LEAST = 3  # one to learn from, one for validation, one for the test
_EXPECTED = "expected uint8 images (N, H, W) or (N, H, W, C)"


def _no_labels(_outputs: object, _targets: object) -> torch.Tensor:
    raise DataError(
        "these images have no labels to learn from: give data with labels, or a trained network whose answers count"
    )


UNLABELLED = Task(_no_labels, _no_labels, "no labels")
"""Task of images without labels, until a network to imitate is known."""


def read_pictures(folder: Path) -> PhotoSplit:
    """Returns all image files under a folder, by name.

    Raises:
        DataError: The folder is absent, or holds too few images.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; give a folder of images, or an .npz or .npy file")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if len(files) < _LEAST:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder} has {len(files)} images ({suffixes}) in it; at least {_LEAST} are needed")
    return PhotoSplit(tuple(files), torch.zeros(len(files), dtype=torch.int64))


def read_images(path: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns images uint8 (N, C, H, W), and those kept apart for the test where the file says which.

    Raises:
        DataError: The file is absent, damaged, or holds no images.
    """
    arrays = _arrays(path)
    names: list[str] = [name for name in ("train_images", "images") if name in arrays] or list(arrays)
    if len(arrays) > 1 and names == list(arrays):
        raise DataError(f"{path} has the arrays {', '.join(arrays)}; name the one with the images 'images'")
    images = _images(path, names[0], arrays[names[0]])
    test = _images(path, "test_images", arrays["test_images"]) if "test_images" in arrays else None
    if len(images) < _LEAST:
        raise DataError(f"{path} has {len(images)} images in it; at least {_LEAST} are needed")
    if test is not None and test.shape[1:] != images.shape[1:]:
        raise DataError(f"{path}: {names[0]} and test_images differ in shape: {images.shape[1:]} and {test.shape[1:]}")
    return images, test


def split_off_test(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (places of the rest, places of the test images) of `count` images."""
    return validation_split(torch.zeros(count, dtype=torch.int64), fraction=_TEST_FRACTION, seed=_TEST_SEED)


def _arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"no file {path}; give a folder of images, or an .npz or .npy file")
    try:
        if path.suffix == ".npy":
            return {"images": np.load(path, allow_pickle=False)}
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if "label" not in name and name != "classes"}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an array of images: {error}") from error


def _images(path: Path, name: str, array: npt.NDArray[np.generic]) -> torch.Tensor:
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(f"{path}: {name} is {array.dtype} of shape {array.shape}; {_EXPECTED}")
    if array.ndim == 4 and array.shape[3] > 4:
        raise DataError(f"{path}: {name} has {array.shape[3]} channels in its last axis (at most 4); {_EXPECTED}")
    array = array[..., None] if array.ndim == 3 else array
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
