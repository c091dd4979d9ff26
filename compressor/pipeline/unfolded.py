"""Networks out of ONNX files get back the batch norms that an exporter has folded away, before they are pruned."""

from dataclasses import replace
from itertools import islice

from compressor import checkpoint
from compressor.data import Dataset, Loader
from compressor.onnx_in import (
    batch_norm_state,
    convolutions_without,
    measure,
    program_from_json,
    program_to_json,
    with_batch_norms,
)
from compressor.train import Progress

__all__ = ["unfolded"]

# Images that the statistics are measured on, few at a time: every activation of a batch is looked at.
_BATCH, _BATCHES = 32, 16


def unfolded(
    saved: checkpoint.CompressedCheckpoint, dataset: Dataset, *, progress: Progress
) -> checkpoint.CompressedCheckpoint:
    """Returns the checkpoint with a batch norm behind every convolution, computing what it did.

    A network that did not come from an ONNX file, that has them, or that is pruned already, comes back as it is.

    Args:
        saved: A checkpoint.
        dataset: Its training images are what the statistics are measured on.
        progress: Told what was done.
    """
    if not saved.architecture.startswith(checkpoint.ONNX) or saved.method is not None or saved.plan is not None:
        return saved
    program = program_from_json(saved.architecture_kwargs["program"])
    bare = convolutions_without(program)
    if not bare:
        return saved
    batches = islice(dataset.batches("train", Loader(_BATCH, shuffle=True)), _BATCHES)
    moments = measure(checkpoint.rebuild(saved), bare, (images for images, _ in batches))
    progress.line(
        f"batch norms put behind {len(bare)} convolutions: the exporter had folded them away, or there were none; the "
        "network computes what it did"
    )
    return replace(
        saved,
        architecture_kwargs={**saved.architecture_kwargs, "program": program_to_json(with_batch_norms(program, bare))},
        state=batch_norm_state(saved.state, moments),
    )
