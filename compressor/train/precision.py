"""Which number format and memory layout a run computes in."""

import copy
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from compressor.data import Batch, Loss
from compressor.train.strided import safe_in_bf16
from compressor.train.views import views_of_any_layout

__all__ = [
    "Precision",
    "as_float",
    "channels_last",
    "choose_precision",
    "forward_and_backward",
    "make_fabric",
    "run_device",
]

# A format that is not clearly faster is not worth its rounding; repeated measurements differ by about 5 %.
_LEAST_GAIN = 1.1
_MEASURED_IMAGES = 128
_MEASURED_STEPS = 2


@dataclass(frozen=True)
class Precision:
    """How a run computes; weights, gradients and the optimiser stay float32.

    Attributes:
        name: '32' or 'bf16' (mixed: convolutions and products in bfloat16).
        channels_last: Images and kernels lie channels-last in memory.
        reason: Why, for the log.
    """

    name: Literal["32", "bf16"]
    channels_last: bool
    reason: str


def choose_precision(
    model: nn.Module,
    batches: Iterator[Batch],
    *,
    loss: Loss = F.cross_entropy,
    wanted: Literal["auto", "32", "bf16"] = "auto",
) -> Precision:
    """Returns the precision for a run of `model`, which is not changed.

    1. '32' or 'bf16': that one.
    2. 'auto' on a GPU: bf16 where the GPU has it.
    3. 'auto' on the CPU, one process: bf16 where the network takes it and two training steps of it are at least 1.1
       times as fast.
    4. 'auto' on the CPU, several processes: '32'; they must agree, and would disturb each other's clocks.

    Args:
        model: The network that will be trained.
        batches: Training batches on the CPU; one is taken where something is measured.
        loss: What is minimised.
        wanted: What the user asked for.
    """
    if wanted != "auto":
        return Precision(wanted, channels_last=True, reason="asked for")
    if torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported()
        return Precision("bf16" if has_bf16 else "32", channels_last=True, reason="what the GPU has")
    if _world_size() > 1:
        return Precision("32", channels_last=True, reason="several processes on the CPU")
    batch = next(batches)
    floats = _step_seconds(model, batch, loss, bf16=False)
    try:
        halves = _step_seconds(model, batch, loss, bf16=True)
    except Exception as error:  # of the network's own code, which may hand numbers to another library
        reason = f"bf16 fails with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Precision("32", channels_last=True, reason=reason)
    reason = f"a bf16 step takes {halves * 1e3:.0f} ms, a float32 step {floats * 1e3:.0f} ms"
    return Precision("bf16" if floats / halves >= _LEAST_GAIN else "32", channels_last=True, reason=reason)


def run_device() -> torch.device:
    """Returns where this process's part of a run will train."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def make_fabric(precision: Precision) -> Fabric:
    """Returns the launched Fabric: one process, or this process's part of `torchrun`'s or `fabric run`'s."""
    world_size = _world_size()
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    # Fabric announces the number format on standard error; the run's own first line says it, and why.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local_size,
        num_nodes=world_size // local_size,
        strategy="ddp" if world_size > 1 else "auto",
        precision="bf16-mixed" if precision.name == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _step_seconds(model: nn.Module, batch: Batch, loss: Loss, *, bf16: bool) -> float:
    """Returns the time of one forward and backward pass, not counting the first, which plans kernels."""
    trial = copy.deepcopy(model)
    start = 0.0
    for step in range(_MEASURED_STEPS + 1):
        if step == 1:
            start = time.perf_counter()
        forward_and_backward(trial, batch, loss, bf16=bf16, most_images=_MEASURED_IMAGES)
    return (time.perf_counter() - start) / _MEASURED_STEPS


def forward_and_backward(model: nn.Module, batch: Batch, loss: Loss, *, bf16: bool, most_images: int) -> None:
    """Changes `model`: its gradients are those of the batch's first images, it is left in training mode.

    Args:
        model: On the device that the batch lies on.
        batch: Used whole where it is not a pair of tensors.
        loss: What is minimised.
        bf16: Convolutions and products in bfloat16.
        most_images: How many images, at most.
    """
    inputs, targets = batch
    if isinstance(inputs, torch.Tensor) and isinstance(targets, torch.Tensor):
        inputs, targets = inputs[:most_images], targets[:most_images]
    model.to(memory_format=torch.channels_last).train()
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        with autocast, safe_in_bf16(bf16=bf16), views_of_any_layout():
            outputs = model(channels_last(inputs))
        torch.autograd.backward(loss(as_float(outputs), targets))


# Inputs and outputs are nested as the caller's network likes, hence Any.
def channels_last(values: Any) -> Any:
    """Returns the values with all images (N, C, H, W) in them lying channels-last in memory."""
    return _map(values, lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t)


def as_float(values: Any) -> Any:
    """Returns the values with all floating-point tensors in them as float32."""
    return _map(values, lambda t: t.float() if t.is_floating_point() else t)


def _map(values: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(values, torch.Tensor):
        return change(values)
    if isinstance(values, dict):
        return {name: _map(value, change) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)(_map(value, change) for value in values)
    return values
