"""Options that several commands share."""

from enum import StrEnum

__all__ = ["DATA_HELP", "MODEL_HELP", "Precision"]

DATA_HELP = "digits, cifar10:PATH, cifar100:PATH, imagefolder:PATH or npz:PATH."
MODEL_HELP = "A checkpoint (.pt); or, with --untrained, a network as `compress train --arch` takes it."


class Precision(StrEnum):
    """Number format of training."""

    AUTO = "auto"
    FP32 = "32"
    BF16 = "bf16"
