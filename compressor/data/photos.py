"""Photographs in class folders: decoded and transformed one by one, by worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from compressor.data.dataset import Batch, Loader, Preprocessing
from compressor.data.order import batch_indices, num_batches
from compressor.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "PhotoSplit", "list_folder"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})

# Evaluation cuts the middle out of a slightly larger picture: 224 of 256, the custom since AlexNet.
_RESIZE_OVER_CROP = 256 / 224


@dataclass(frozen=True)
class PhotoSplit:
    """A split of image files.

    Attributes:
        paths: One file per image.
        labels: int64, (N,).
    """

    paths: tuple[Path, ...]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.paths)

    def num_batches(self, loader: Loader) -> int:
        """Returns how many batches an epoch has, see `Split`."""
        return num_batches(len(self), loader)

    def batches(self, loader: Loader, preprocessing: Preprocessing) -> Iterator[Batch]:
        """Yields normalised batches, see `Split`."""
        shares = [places[loader.rank :: loader.num_ranks].tolist() for places in batch_indices(len(self), loader)]
        shares = [share for share in shares if share]
        photos = _Photos(self, _transform(preprocessing, augment=loader.augment), loader.seed, loader.epoch)
        # Its own generator, or it would draw from the global one.
        walk: DataLoader[Batch] = DataLoader(
            photos, batch_sampler=shares, num_workers=loader.num_workers, generator=torch.Generator()
        )
        for images, labels in walk:
            yield images.to(loader.device), labels.to(loader.device)


def list_folder(folder: Path, classes: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], PhotoSplit]:
    """Returns the class names and the images of `folder/CLASS/*.jpg`, both sorted by name.

    Args:
        folder: Holds one folder per class.
        classes: Class folders that must be there, no fewer and no more; None takes what is found.

    Raises:
        DataError: The folder is absent, has no class folders or others than `classes`, or some are empty.
    """
    layout = "expected one folder per class with images in it"
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; {layout}")
    found = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    if not found:
        raise DataError(f"{folder} has no folders; {layout}")
    if classes is not None and found != classes:
        wrong = sorted(set(found) ^ set(classes))
        raise DataError(f"{folder} and the training folder differ in classes: {', '.join(wrong)}")
    files = [
        sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES) for name in found
    ]
    empty = [name for name, of_class in zip(found, files, strict=True) if not of_class]
    if empty:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder} has no images ({suffixes}) in: {', '.join(empty)}; {layout}")
    labels = torch.tensor([label for label, of_class in enumerate(files) for _ in of_class])
    return found, PhotoSplit(tuple(path for of_class in files for path in of_class), labels)


def _transform(preprocessing: Preprocessing, *, augment: bool) -> v2.Compose:
    _, height, width = preprocessing.size
    if augment:
        geometry = [v2.RandomResizedCrop((height, width), scale=(0.25, 1.0), antialias=True)]
        geometry += [v2.RandomHorizontalFlip()]
    else:
        larger = [round(side * _RESIZE_OVER_CROP) for side in (height, width)]
        geometry = [v2.Resize(larger, antialias=True), v2.CenterCrop((height, width))]
    values = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*geometry, *values, v2.Normalize(preprocessing.mean, preprocessing.std)])


@dataclass(frozen=True)
class _Photos(TorchDataset[Batch]):
    """Decodes and transforms; what is random about an image depends on (seed, epoch, place) only."""

    split: PhotoSplit
    transform: v2.Compose
    seed: int
    epoch: int

    def __getitem__(self, place: int) -> Batch:
        path = self.split.paths[place]
        try:
            image = Image.open(path).convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path} cannot be decoded as an image: {error}") from error
        # torchvision's transforms draw from torch's global state; it is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed * 1_000_003 + self.epoch) * 1_000_003 + place)
            return self.transform(image), self.split.labels[place]
