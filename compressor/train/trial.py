"""One training step on a copy of a network: what torch cannot train is refused before anything is written."""

import copy
import re

from torch import nn
from torch.nn.parameter import is_lazy

from compressor.data import Dataset, Loader, Loss
from compressor.errors import CompressorError
from compressor.train.precision import forward_and_backward, run_device

__all__ = ["check_trains"]

_IMAGES = 2  # a batch norm needs two numbers of each channel
_HINT = re.compile(r"\.? *Hint: .*", re.DOTALL)  # torch's, on how to debug what it says
_ADVICE = {
    "modified by an inplace operation": "write into a new tensor what a gradient still needs, such as x = x * 2 "
    "instead of x.mul_(2)",
    "does not require grad": "no parameter that may be trained takes part in the output: leave torch.no_grad, detach "
    "and requires_grad_(False) out of it",
}
_OTHERWISE = "the loss of its outputs must have gradients, by operators that torch can differentiate"


def check_trains(model: nn.Module, dataset: Dataset, loss: Loss, *, bf16: bool = False) -> None:
    """Tries a forward and a backward pass on two training images; the network stays as it is.

    Args:
        model: The network that will be trained, wherever it lies.
        dataset: What it will be trained on; without a batch in it nothing is tried.
        loss: What is minimised.
        bf16: Try it in bfloat16.

    Raises:
        CompressorError: It fails; the message says why, and what to do.
    """
    name = type(model).__name__
    without_size = [path for path, value in model.named_parameters() if is_lazy(value)]
    if without_size:
        raise CompressorError(
            f"{name} cannot be trained: {', '.join(without_size[:3])} have no size yet; give such layers their number "
            "of inputs, or run the network on one input first"
        )
    batch = next(dataset.batches("train", Loader(_IMAGES, device=run_device())), None)
    if batch is None:
        return
    try:
        trial = copy.deepcopy(model).to(run_device())
        forward_and_backward(trial, batch, loss, bf16=bf16, most_images=_IMAGES)
    except Exception as error:  # torch and the network's own code raise what they like
        text = _HINT.sub("", " ".join(str(error).split()))
        advice = next((advice for part, advice in _ADVICE.items() if part in text), _OTHERWISE)
        where = " in bf16" if bf16 else ""
        raise CompressorError(
            f"{name} cannot be trained{where}: {type(error).__name__}: {text[:400].rstrip('.')}; {advice}"
        ) from error
