"""Batch-norm statistics measured anew: a cut changes what every later layer sees."""

import copy
from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["reestimate_batch_norm"]


def reestimate_batch_norm(model: nn.Module, batches: Iterable[object], *, num_batches: int = 100) -> nn.Module:
    """Returns a copy whose running means and variances are plain averages over batches; weights stay.

    Only batch norms are in training mode meanwhile, so dropout does not disturb. A network without running
    statistics comes back as it is.

    Args:
        model: the network after a cut, on the device to measure on.
        batches: inputs, or (inputs, labels) pairs as a loader yields them; on any device.
        num_batches: how many to use at most.

    Raises:
        ValueError: there is no batch.
    """
    fresh = copy.deepcopy(model)
    norms = [m for m in fresh.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return fresh
    momenta = [norm.momentum for norm in norms]
    modes = {module: module.training for module in fresh.modules()}
    fresh.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to say: average over all batches seen
        norm.train()
    seen = 0
    parameter = next(fresh.parameters(), None)
    with torch.no_grad():
        for batch in batches:
            if seen == num_batches:
                break
            images = batch[0] if isinstance(batch, list | tuple) else batch
            assert isinstance(images, torch.Tensor)
            fresh(images.to(parameter.device) if parameter is not None else images)
            seen += 1
    if not seen:
        raise ValueError("no batch to measure batch-norm statistics on; give at least one")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes.items():
        module.training = training
    return fresh
