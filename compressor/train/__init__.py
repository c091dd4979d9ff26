"""Training and evaluation, on one process or many, with hooks for a pruning method."""

from compressor.train.distillation import Teacher
from compressor.train.evaluate import Evaluation, evaluate
from compressor.train.hooks import TrainingMethod
from compressor.train.loop import train
from compressor.train.progress import Progress, progress_on
from compressor.train.settings import EpochRecord, TrainRecord, TrainSettings
from compressor.train.state import resume_path

__all__ = [
    "EpochRecord",
    "Evaluation",
    "Progress",
    "Teacher",
    "TrainRecord",
    "TrainSettings",
    "TrainingMethod",
    "evaluate",
    "progress_on",
    "resume_path",
    "train",
]
