"""Removing channels for real: a plan applied to a network, its optimizer, or only as zeros; and adding such zeros."""

from compressor.shrink.arrange import arrange
from compressor.shrink.batch_norm import reestimate_batch_norm
from compressor.shrink.constants import fold_constants
from compressor.shrink.masks import kept_units, removed_branches, silence
from compressor.shrink.optimizer import remap_optimizer
from compressor.shrink.residue import Residue
from compressor.shrink.surgery import check_network, shrink
from compressor.shrink.taps import fits_taps
from compressor.shrink.widen import can_widen, widen

__all__ = [
    "Residue",
    "arrange",
    "can_widen",
    "check_network",
    "fits_taps",
    "fold_constants",
    "kept_units",
    "reestimate_batch_norm",
    "remap_optimizer",
    "removed_branches",
    "shrink",
    "silence",
    "widen",
]
