"""The particle filter over masks: which units go, found by misclassification rates alone, without a gradient.

    predict     each mask loses further units, drawn among its live ones, until n_t are gone; mutation swaps a pruned
                unit with a live one
    weigh       w_i <- w_i * (1 - e_i)^kappa, normalised; e_i is the misclassification rate under mask i
    resample    systematically where 1 / sum w^2 < N / 2
    evolve      crossover: a child keeps the units live in both parents and draws the rest from those live in one
    elitism     the best mask at the present count takes the place of the one with the least weight

Units are drawn uniformly; where a guess of each unit's loss is given (the L1 norm of what would go), some masks draw
with odds 1 / loss^4, and in each step that prunes more one mask is that of least guessed loss, so that the filter never
ends with a worse one. Among a hundred channels uniform draws do well; among thousands of kernels they find nothing.

for t = 1..T, n_t rising in a line to n_T, and some steps more at n_T. After Anwar, Hwang and Sung, "Structured Pruning
of Deep Convolutional Neural Networks" (arXiv 1512.08571): that particles are masks weighed by the misclassification
rate, and that the filter is evolutionary, is the paper's; numbers and operators are a reconstruction. kappa = 1 is the
literal reading of "importance weight", and nearly flat: rates from 0.2 to 0.4 leave an effective number of 0.99 N,
kappa = 10 of 0.62 N.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressor.methods.structured_masks import Block, Particles
from compressor.methods.structured_moves import cross, guess, mutate, prune

__all__ = ["Errors", "FilterSettings", "FilterStep", "Found", "effective_number", "search", "systematic", "weigh"]

_Floats = npt.NDArray[np.float64]
# (n, units) different particles -> (n,) misclassification rates, 0 to 1
Errors = Callable[[Particles], _Floats]


@dataclass(frozen=True)
class FilterSettings:
    """Numbers of the filter.

    Attributes:
        particles: N.
        steps: T, in which the number of pruned units rises.
        hold: Steps more at the final number.
        kappa: Exponent of the weights, above 0; 1 is the literal reading.
        mutation: Probability that a mask is mutated in a step.
        crossover: Part of the masks that become children in a step.
        guided: Part of the masks that draw by guessed losses, where there are some.
    """

    particles: int = 50
    steps: int = 5
    hold: int = 5
    kappa: float = 10.0
    mutation: float = 0.1
    crossover: float = 0.3
    guided: float = 0.5


@dataclass(frozen=True)
class FilterStep:
    """What one step saw.

    Attributes:
        num_pruned: Units that every mask of this step prunes, over all blocks.
        best: Least error seen so far at this number.
        median: Of this step's masks.
        effective: Effective number of particles after weighing.
        evaluated: Different masks whose error was new.
    """

    num_pruned: int
    best: float
    median: float
    effective: float
    evaluated: int


@dataclass(frozen=True, eq=False)
class Found:
    """Where a search ended.

    Attributes:
        particle: (units,), the mask of least error among all with the final number of pruned units.
        error: Its misclassification rate.
        steps: One entry each.
        levels: The mask of least error at each number of pruned units on the way, ascending; the last is `particle`.
    """

    particle: npt.NDArray[np.int8]
    error: float
    steps: tuple[FilterStep, ...]
    levels: tuple[npt.NDArray[np.int8], ...]

    @property
    def evaluations(self) -> int:
        """Masks that were evaluated."""
        return sum(step.evaluated for step in self.steps)


def search(blocks: Sequence[Block], errors: Errors, settings: FilterSettings, *, seed: Sequence[int]) -> Found:
    """Returns the best mask that prunes exactly what the blocks ask for.

    Args:
        blocks: Units and how many of them go; at least one goes.
        errors: Gives the misclassification rate of masks; called with each mask once.
        settings: Numbers of the filter.
        seed: Decides everything random.

    Raises:
        ValueError: More units are to go than a block can lose.
    """
    if wrong := [b.name for b in blocks if not 0 <= b.num_pruned <= b.most]:
        raise ValueError(f"more units are to be pruned than may go in: {', '.join(wrong)}")
    rng = np.random.default_rng(list(seed))
    number = settings.particles
    particles: Particles = np.zeros((number, sum(block.size for block in blocks)), dtype=np.int8)
    weights = np.full(number, 1.0 / number)
    counts = [0] * len(blocks)
    known: dict[bytes, float] = {}
    best, least, elite = particles[0].copy(), math.inf, -1
    steps: list[FilterStep] = []
    levels: list[npt.NDArray[np.int8]] = []
    ramp = [[math.ceil(b.num_pruned * t / settings.steps) for b in blocks] for t in range(1, settings.steps + 1)]
    for wanted in [*ramp, *[ramp[-1]] * settings.hold]:
        chosen = rng.random(number) < settings.mutation
        if wanted != counts:
            levels += [best] if steps else []
            counts, known, least, elite = wanted, {}, math.inf, -1
            prune(particles, blocks, counts, settings.guided, rng)
            chosen[0] &= not guess(particles, blocks, counts)
        else:  # a copy would only be evaluated again
            chosen |= _copies(particles)
        if elite >= 0:
            chosen[elite] = False
        mutate(particles, blocks, np.flatnonzero(chosen), settings.guided, rng)

        rates, evaluated = _rates(particles, errors, known)
        weights = weigh(weights, rates, settings.kappa)
        effective = effective_number(weights)
        if rates.min() < least:
            least, best = float(rates.min()), particles[int(rates.argmin())].copy()
        steps.append(FilterStep(sum(counts), least, float(np.median(rates)), effective, evaluated))

        if effective < number / 2:
            particles = particles[systematic(weights, rng.random())]
            weights = np.full(number, 1.0 / number)
        weights = cross(particles, blocks, weights, settings.crossover, rng)
        elite = int(weights.argmin())
        particles[elite], weights[elite] = best, weights.max()
        weights /= weights.sum()
    return Found(best, least, tuple(steps), (*levels, best))


def weigh(weights: _Floats, errors: _Floats, kappa: float) -> _Floats:
    """Returns w * (1 - e)^kappa, normalised: (N,), at least 0, sum 1; equal errors keep equal weights equal.

    Where every product is 0 the errors say nothing, and the weights stay.

    Args:
        weights: (N,), sum 1.
        errors: (N,), 0 to 1.
        kappa: Above 0.
    """
    result: _Floats = weights * (1.0 - errors) ** kappa
    total = float(result.sum())
    return result / total if total > 0.0 else weights.copy()


def effective_number(weights: _Floats) -> float:
    """Returns 1 / sum w^2: N for equal weights, 1 where one particle has all."""
    return 1.0 / float((weights**2).sum())


def systematic(weights: _Floats, draw: float) -> npt.NDArray[np.int64]:
    """Returns (N,) which particles go on, ascending: floor(N w) or ceil(N w) copies of each.

    Args:
        weights: (N,), sum 1.
        draw: u, uniform in [0, 1): the thresholds are (i + u) / N.
    """
    number = len(weights)
    ends = np.cumsum(weights * number)
    ends[-1] = number  # against rounding
    return np.searchsorted(ends, np.arange(number) + draw, side="right").astype(np.int64).clip(max=number - 1)


def _rates(particles: Particles, errors: Errors, known: dict[bytes, float]) -> tuple[_Floats, int]:
    """Returns the errors of all particles and how many were new; remembers them in `known`."""
    names = [particle.tobytes() for particle in particles]
    new = {name: place for place, name in reversed(list(enumerate(names))) if name not in known}
    places = sorted(new.values())
    if places:
        for place, rate in zip(places, errors(particles[places]).tolist(), strict=True):
            known[names[place]] = rate
    return np.array([known[name] for name in names]), len(places)


def _copies(particles: Particles) -> npt.NDArray[np.bool_]:
    """Returns (N,): True where an earlier particle is the same."""
    names = [particle.tobytes() for particle in particles]
    return np.array([names.index(name) < place for place, name in enumerate(names)])
