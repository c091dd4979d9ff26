"""Fixed-point weights at rest: levels as int8 tensors beside a description in JSON values.

    description    {weight's name: {"bits": 4, "axis": null or 0, "steps": [float32 values]}}

In memory a state dict holds the float values of all weights, as every other part of the project expects; with the
description the levels follow from them exactly.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressor.quantise.quantiser import FixedPoint, check_bits, dequantise, to_levels
from compressor.quantise.step import max_level

__all__ = ["describe", "from_levels", "read", "to_stored"]

Description = Mapping[str, Any]  # JSON values


def describe(fixed: Mapping[str, FixedPoint]) -> dict[str, Any]:  # JSON values
    """Returns the description of fixed-point tensors, without their levels."""
    return {
        name: {"bits": values.bits, "axis": values.axis, "steps": values.step.reshape(-1).tolist()}
        for name, values in fixed.items()
    }


def read(description: Description, state: Mapping[str, Tensor]) -> dict[str, FixedPoint]:
    """Returns the fixed-point tensors whose float values a state dict holds.

    Raises:
        ValueError: A tensor is missing or is not a multiple of its steps, as after further training.
    """
    fixed = {}
    for name, entry in description.items():
        if name not in state:
            raise ValueError(f"there is no weight {name}")
        weight = state[name].detach().cpu()
        values = _fixed(name, entry, weight)
        found = FixedPoint(to_levels(weight, values.step, values.bits, values.axis), *_rest(values))
        if not torch.equal(dequantise(found), weight):
            raise ValueError(f"{name} is not what its {values.bits}-bit levels stand for; its values were changed")
        fixed[name] = found
    return fixed


def to_stored(description: Description, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state dict with levels, int8, in place of the described tensors' float values. Raises as `read`."""
    return {**state, **{name: values.levels for name, values in read(description, state).items()}}


def from_levels(description: Description, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state dict with float values in place of levels: what was given to `to_stored`, bit for bit.

    Raises:
        ValueError: The description and the tensors do not go together.
    """
    floats = {}
    for name, entry in description.items():
        levels = state.get(name)
        if levels is None or levels.dtype != torch.int8:
            raise ValueError(f"{name} is not stored as levels")
        values = _fixed(name, entry, levels)
        if levels.numel() and int(levels.to(torch.int16).abs().max()) > max_level(values.bits):
            raise ValueError(f"{name} has levels that {values.bits} bits do not hold")
        floats[name] = dequantise(values)
    return {**state, **floats}


def _fixed(name: str, entry: Mapping[str, Any], tensor: Tensor) -> FixedPoint:
    """The description of one tensor, checked; `tensor` stands in for its levels."""
    try:
        bits, axis = int(entry["bits"]), entry["axis"]
        check_bits(bits)
        step = torch.tensor(entry["steps"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the description of {name} lacks usable bits, axis and steps") from error
    wanted = 1 if axis is None else tensor.shape[axis]
    if step.shape != (wanted,) or not bool((torch.isfinite(step) & (step > 0)).all()):
        raise ValueError(f"{name} needs {wanted} steps above 0, described are {step.numel()}")
    return FixedPoint(tensor, step[0] if axis is None else step, bits, axis)


def _rest(values: FixedPoint) -> tuple[Tensor, int, int | None]:
    return values.step, values.bits, values.axis
