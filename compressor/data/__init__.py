"""Data sets by name, each with a fixed validation split.

    load("digits")                 8×8 digits, embedded in scikit-learn
    load("cifar10:cifar10.npz")    one file, or torchvision's folder
    load("imagefolder:photos")     photos/train/CLASS/*.jpg, photos/val/CLASS/*.jpg
    load("npz:mnist.npz")          any small images
    load("images:pictures")        images without labels

Small images live in one tensor and are augmented in batches; photographs are decoded by worker processes.
"""

from compressor.data.dataset import Augmentation, Batch, Dataset, Loader, Preprocessing, Split, SplitName
from compressor.data.loaders import LoaderSplit, from_loaders
from compressor.data.order import num_batches
from compressor.data.photos import PhotoSplit
from compressor.data.small_images import TensorSplit
from compressor.data.sources import FORMS, load
from compressor.data.task import CLASSIFICATION, Loss, Metric, Task, accuracy
from compressor.data.unlabelled import UNLABELLED

__all__ = [
    "CLASSIFICATION",
    "FORMS",
    "UNLABELLED",
    "Augmentation",
    "Batch",
    "Dataset",
    "Loader",
    "LoaderSplit",
    "Loss",
    "Metric",
    "PhotoSplit",
    "Preprocessing",
    "Split",
    "SplitName",
    "Task",
    "TensorSplit",
    "accuracy",
    "from_loaders",
    "load",
    "num_batches",
]
