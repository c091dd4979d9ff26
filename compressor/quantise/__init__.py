"""Fixed-point weights: quantiser, storage, choice of word lengths, training with master weights."""

from compressor.quantise.choice import Sensitivity, last_that_holds, lowering_path, sweep
from compressor.quantise.master import MasterWeight, keep_masters, release_masters
from compressor.quantise.quantiser import (
    MAX_BITS,
    MIN_BITS,
    FixedPoint,
    check_bits,
    dequantise,
    q_format,
    quantise,
    to_levels,
)
from compressor.quantise.storage import LayerStorage, layer_storage, packed_bytes, stored_bits
from compressor.quantise.stored import describe, from_levels, read, to_stored
from compressor.quantise.weights import Scheme, apply, kernel_names, quantise_all

__all__ = [
    "MAX_BITS",
    "MIN_BITS",
    "FixedPoint",
    "LayerStorage",
    "MasterWeight",
    "Scheme",
    "Sensitivity",
    "apply",
    "check_bits",
    "dequantise",
    "describe",
    "from_levels",
    "keep_masters",
    "kernel_names",
    "last_that_holds",
    "layer_storage",
    "lowering_path",
    "packed_bytes",
    "q_format",
    "quantise",
    "quantise_all",
    "read",
    "release_masters",
    "stored_bits",
    "sweep",
    "to_levels",
    "to_stored",
]
