"""How lambda of RBP (reconstruction) is steered so that the noise comes out where the budget wants it.

lambda starts at 0 and is let in over the first part of a stage (ramp). The expected cost, every unit counted as its
keep probability 1 - r, is to follow a line down to the goal, and to stay there:

    lambda = ramp * lambda0 * exp(p e + i sum e)       e = (expected cost - line) / (cost of all - cost of none)

lambda0 makes the prior's pull on a rate a fixed part of what the data pulls in the first step, root mean square over
the rates, so it fits any loss, batch size and number of channels. The state lives in the network's buffers: a stopped
stage goes on exactly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Pressure", "Steering"]

# Of the stage: when the line reaches the goal.
_SETTLED = 0.7
# lambda0: the prior's pull as a part of the data's. One batch's gradient is mostly chance, its mean is smaller.
_FIRST_PULL = 0.3
_LEAST_PULL = 1e-8
# e^10 for the whole cost off the line; the sum adds as much again over a third of a stage; both stay within e^±7.
_PROPORTIONAL = 10.0
_INTEGRAL = 30.0
_LARGEST = 7.0


class Pressure(nn.Module):
    """lambda and the controller's memory, as buffers of the network in training."""

    lam: Tensor
    steps: Tensor
    total: Tensor
    data_pull: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("lam", torch.zeros((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("data_pull", torch.zeros((), dtype=torch.float64))


@dataclass(frozen=True)
class Steering:
    """Where a stage is to lead.

    Attributes:
        steps: of the stage.
        samples: N, training samples.
        ramp_fraction: part of the stage in which lambda rises from 0.
        lam: the constant lambda after that; 0 steers it to the goal.
        slope: |dKL/da| at the first rate.
        cost: group -> expected number of units, as the cost of the whole network.
        start: cost with all units.
        none: cost without the units in question.
        goal: cost to reach.
    """

    steps: int
    samples: int
    ramp_fraction: float = 0.2
    lam: float = 0.0
    slope: float = 1.0
    cost: Callable[[dict[str, float]], float] = lambda _: 1.0
    start: float = 1.0
    none: float = 0.0
    goal: float = 1.0

    def update(self, pressure: Pressure, *, kept: dict[str, float], data_pull: float) -> None:
        """Changes `pressure` for the next step.

        Args:
            pressure: of the network.
            kept: expected number of units of each group.
            data_pull: root mean square of the rates' gradient in this step; counts in the first one, where lambda is 0.
        """
        step = int(pressure.steps) + 1
        if step == 1:
            pressure.data_pull.fill_(max(data_pull, _LEAST_PULL))
        pressure.steps.fill_(step)
        ramp = min(1.0, step / max(1.0, self.ramp_fraction * self.steps))
        if self.lam:
            pressure.lam.fill_(ramp * self.lam)
            return
        line = self.start + (self.goal - self.start) * min(1.0, step / (_SETTLED * self.steps))
        error = (self.cost(kept) - line) / max(self.start - self.none, 1e-12)
        total = max(-_LARGEST, min(_LARGEST, float(pressure.total) + error * _INTEGRAL / self.steps))
        pressure.total.fill_(total)
        power = max(-_LARGEST, min(_LARGEST, _PROPORTIONAL * error + total))
        first = _FIRST_PULL * float(pressure.data_pull) * self.samples / self.slope
        pressure.lam.fill_(ramp * first * math.exp(power))
