"""What `compress export` does to an FBS network whose weights are to have 16 or 8 bits, by its options."""

import copy
from collections.abc import Mapping
from dataclasses import replace

from compressor.errors import CompressorError
from compressor.methods.fbs import layers
from compressor.methods.fbs_rounding import (
    round_predictors,
    round_predictors_to_bytes,
    round_weights,
    round_weights_to_bytes,
)
from compressor.pipeline.layout import compare_accuracy
from compressor.pipeline.prune import matching_data
from compressor.pipeline.source import Source

__all__ = ["BYTE_WEIGHTS", "HALF_PREDICTORS", "HALF_WEIGHTS", "INT8", "round_network", "rounded_as"]

BYTE_WEIGHTS, HALF_PREDICTORS, HALF_WEIGHTS, INT8 = "--byte-weights", "--half-predictors", "--half-weights", "--int8"

# What can be rounded, and to what; the file's metadata have an entry of the first name that says the second.
_ROUNDERS = {
    ("predictors", "float16"): round_predictors,
    ("predictors", "int8"): round_predictors_to_bytes,
    ("weights", "float16"): round_weights,
    ("weights", "int8"): round_weights_to_bytes,
}
_WANTED = {
    HALF_PREDICTORS: {"predictors": "float16"},
    HALF_WEIGHTS: {"predictors": "float16", "weights": "float16"},
    BYTE_WEIGHTS: {"predictors": "int8", "weights": "int8"},
    INT8: {"predictors": "int8"},  # its weights are rounded with the planes
}


def round_network(source: Source, data: str | None, option: str) -> tuple[Source, dict[str, str], str]:
    """Returns the rounded network, entries for the file's metadata, and what that changed, for people.

    Args:
        source: A network with FBS attached; it stays as it is.
        data: What `compressor.data.load` takes: a trained network's accuracy before and after is counted on validation
            images. None counts nothing.
        option: HALF_PREDICTORS or INT8; or HALF_WEIGHTS or BYTE_WEIGHTS, which round predictors and linear layers too.

    Raises:
        CompressorError: Its weights are fixed-point numbers, or it has no FBS layers.
        DataError: The data is not usable, or not what the network was made for.
    """
    saved = source.saved
    if saved is not None and saved.fixed_point is not None:
        raise CompressorError(f"{option}: the weights of {source.name} are fixed-point numbers; leave it out")
    if not layers(source.model):
        raise CompressorError(
            f"{option} rounds what FBS layers are made of, and {source.name} has no FBS layers; leave it out and add "
            "--int8, or use 'compress quantize' for weights of 2 to 8 bits, or prune with --method fbs first"
        )
    made = replace(source, model=copy.deepcopy(source.model))
    notes = []
    for what, form in _WANTED[option].items():
        done = _ROUNDERS[what, form](made.model)
        notes.append(
            f"{what} in {form}: {4e-6 * done.count:.2f} -> {1e-6 * done.stored_bytes:.2f} MB, none changed by more "
            f"than {done.change:.1e} of its layer's largest"
        )
    if saved is not None and data is not None:
        before, after, scored = compare_accuracy(source.model, made.model, matching_data(data, saved, 0))
        notes.append(f"accuracy {before:.2%} -> {after:.2%} on {scored} validation images")
    return made, dict(_WANTED[option]), "; ".join(notes)


def rounded_as(source: Source, metadata: Mapping[str, object]) -> Source:
    """Returns the network that `round_network` made for a file with this metadata; `source` stays as it is."""
    rounders = [rounder for (what, form), rounder in _ROUNDERS.items() if metadata.get(what) == form]
    if not rounders:
        return source
    made = replace(source, model=copy.deepcopy(source.model))
    for rounder in rounders:
        rounder(made.model)
    return made
