"""What `compress export --half-predictors` and `--half-weights` do to an FBS network: numbers of 16 bits."""

import copy
from collections.abc import Mapping
from dataclasses import replace

from compressor.errors import CompressorError
from compressor.methods.fbs_half import round_predictors, round_weights
from compressor.pipeline.layout import compare_accuracy
from compressor.pipeline.prune import matching_data
from compressor.pipeline.source import Source

__all__ = ["halve", "halved_as"]

# What can be rounded; the file's metadata have an entry of this name for what was.
_ROUNDERS = {"predictors": round_predictors, "weights": round_weights}
_FLOAT16 = "float16"


def halve(source: Source, data: str | None, *, weights: bool) -> tuple[Source, dict[str, str], str]:
    """Returns the network with rounded predictors, entries for the file's metadata, and what that changed, for people.

    Args:
        source: A network with FBS attached; it stays as it is.
        data: What `compressor.data.load` takes: a trained network's accuracy before and after is counted on validation
            images. None counts nothing.
        weights: Round the weights of FBS layers and of linear layers too.

    Raises:
        CompressorError: Its weights are fixed-point numbers, or it has no FBS layers.
        DataError: The data is not usable, or not what the network was made for.
    """
    saved, option = source.saved, "--half-weights" if weights else "--half-predictors"
    if saved is not None and saved.fixed_point is not None:
        raise CompressorError(f"{option}: the weights of {source.name} are fixed-point numbers; leave it out")
    halved = replace(source, model=copy.deepcopy(source.model))
    notes = []
    wanted = _ROUNDERS if weights else {"predictors": round_predictors}
    for what, rounder in wanted.items():
        count, change = rounder(halved.model)
        notes.append(
            f"{what} in float16: {4e-6 * count:.2f} -> {2e-6 * count:.2f} MB, none changed by more than {change:.1e} "
            "of its layer's largest"
        )
    if saved is not None and data is not None:
        before, after, scored = compare_accuracy(source.model, halved.model, matching_data(data, saved, 0))
        notes.append(f"accuracy {before:.2%} -> {after:.2%} on {scored} validation images")
    return halved, dict.fromkeys(wanted, _FLOAT16), "; ".join(notes)


def halved_as(source: Source, metadata: Mapping[str, object]) -> Source:
    """Returns the network that `halve` made for a file with this metadata; `source` stays as it is."""
    rounders = [rounder for what, rounder in _ROUNDERS.items() if metadata.get(what) == _FLOAT16]
    if not rounders:
        return source
    made = replace(source, model=copy.deepcopy(source.model))
    for rounder in rounders:
        rounder(made.model)
    return made
