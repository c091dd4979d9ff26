"""What `compress export --half-predictors` does to an FBS network: saliency weights of 16 bits."""

import copy
from dataclasses import replace

from compressor.errors import CompressorError
from compressor.methods.fbs_half import round_predictors
from compressor.pipeline.layout import compare_accuracy
from compressor.pipeline.prune import matching_data
from compressor.pipeline.source import Source

__all__ = ["halve_predictors"]


def halve_predictors(source: Source, data: str | None) -> tuple[Source, str]:
    """Returns the network with rounded predictors, and what that changed, for people.

    Args:
        source: A network with FBS attached; it stays as it is.
        data: What `compressor.data.load` takes: a trained network's accuracy before and after is counted on validation
            images. None counts nothing.

    Raises:
        CompressorError: Its predictors are fixed-point numbers, or it has none.
        DataError: The data is not usable, or not what the network was made for.
    """
    saved = source.saved
    if saved is not None and saved.fixed_point is not None:
        raise CompressorError(f"--half-predictors: those of {source.name} are fixed-point numbers; leave it out")
    halved = replace(source, model=copy.deepcopy(source.model))
    count, change = round_predictors(halved.model)
    note = (
        f"predictors in float16: {4e-6 * count:.2f} -> {2e-6 * count:.2f} MB, no weight changed by more than "
        f"{change:.1e} of its layer's largest"
    )
    if saved is None or data is None:
        return halved, note
    before, after, scored = compare_accuracy(source.model, halved.model, matching_data(data, saved, 0))
    return halved, f"{note}; accuracy {before:.2%} -> {after:.2%} on {scored} validation images"
