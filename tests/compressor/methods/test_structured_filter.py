"""The particle filter alone, on rates that are formulas."""

import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from compressor.methods.structured_filter import FilterSettings, effective_number, search, systematic, weigh
from compressor.methods.structured_masks import Block, Particles, check_particles

SETTINGS = FilterSettings(particles=20, steps=3, hold=3)
BLOCKS = {
    "channels": [Block("a", 1, 12, 7)],
    "kernels": [Block("k", 5, 6, 20)],
    "strides": [Block("s", 1, 9, 9, ways=3, keeps_rows=False)],
    "a whole net": [Block("a", 1, 12, 11), Block("k", 5, 6, 25), Block("s", 1, 9, 4, ways=4, keeps_rows=False)],
}


def guesses(blocks: list[Block]) -> list[Block]:
    """The same blocks with a guess of each unit's loss."""
    rng = np.random.default_rng(5)
    return [replace(block, losses=rng.random((block.rows, block.columns, block.ways)) + 0.1) for block in blocks]


BLOCKS |= {f"{name}, guessed": guesses(blocks) for name, blocks in BLOCKS.items()}


class Quadratic:
    """Rates with a part for each unit and one for each pair; notes what it was asked."""

    def __init__(self, units: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.single, self.pair = rng.random(units), 0.3 * rng.random((units, units))
        self.asked: list[Particles] = []

    def __call__(self, particles: Particles) -> npt.NDArray[np.float64]:
        self.asked.append(particles.copy())
        gone = particles.astype(np.float64)
        cost = gone @ self.single + np.einsum("ni,ij,nj->n", gone, self.pair, gone)
        return np.clip(cost / len(self.single), 0.0, 1.0)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_mask_prunes_exactly_what_its_step_asks_for(name: str) -> None:
    blocks = BLOCKS[name]
    errors = Quadratic(sum(block.size for block in blocks))
    found = search(blocks, errors, FilterSettings(particles=30, steps=4, hold=4, mutation=0.5, crossover=0.8), seed=[1])
    sums = {step.num_pruned for step in found.steps}
    for asked in errors.asked:
        ends = np.cumsum([0] + [block.size for block in blocks])
        parts = [asked[:, start:end] for start, end in itertools.pairwise(ends)]
        counts = [int((part[0] != 0).sum()) for part in parts]
        check_particles(asked, blocks, counts)
        assert sum(counts) in sums
    check_particles(found.particle[None], blocks, [block.num_pruned for block in blocks])


def test_no_mask_is_evaluated_twice_at_one_number() -> None:
    errors = Quadratic(12)
    found = search(BLOCKS["channels"], errors, SETTINGS, seed=[0])
    names = [particle.tobytes() for asked in errors.asked for particle in asked]
    assert len(names) == len(set(names)) == found.evaluations


def test_the_best_never_gets_worse_at_one_number() -> None:
    steps = search(BLOCKS["channels"], Quadratic(12), FilterSettings(particles=10, hold=10), seed=[3]).steps
    for before, after in itertools.pairwise(steps):
        assert before.num_pruned < after.num_pruned or after.best <= before.best
        assert after.best <= after.median


@pytest.mark.parametrize("seed", range(5))
def test_a_small_search_finds_one_of_the_best(seed: int) -> None:
    """10 units, 3 go: 120 masks; the filter's is among the best 5 %."""
    errors = Quadratic(10, seed)
    every = np.zeros((120, 10), dtype=np.int8)
    for row, gone in zip(every, itertools.combinations(range(10), 3), strict=True):
        row[list(gone)] = 1
    rates = np.sort(errors(every))
    found = search([Block("a", 1, 10, 3)], errors, SETTINGS, seed=[seed])
    assert found.error <= rates[5]
    assert found.error == errors(found.particle[None])[0]


def test_a_seed_decides_everything() -> None:
    first, second, other = (search(BLOCKS["kernels"], Quadratic(30), SETTINGS, seed=seed) for seed in ([7], [7], [8]))
    assert np.array_equal(first.particle, second.particle)
    assert first.steps == second.steps
    assert not np.array_equal(first.particle, other.particle)


def test_weights_follow_the_rates() -> None:
    rates = np.array([0.3, 0.1, 0.1, 0.9, 1.0])
    weights = weigh(np.full(5, 0.2), rates, 10.0)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert weights[1] == weights[2] > weights[0] > weights[3] > weights[4] == 0.0
    assert weigh(weights, np.ones(5), 10.0) == pytest.approx(weights), "rates of 1 say nothing"


def test_the_literal_exponent_is_nearly_flat() -> None:
    rates = np.linspace(0.2, 0.4, 101)
    parts = [effective_number(weigh(np.full(101, 1 / 101), rates, kappa)) / 101 for kappa in (1.0, 10.0, 20.0)]
    assert parts == pytest.approx([0.99, 0.62, 0.36], abs=0.03)


def test_systematic_resampling_copies_by_weight() -> None:
    rng = np.random.default_rng(0)
    weights = rng.random(50) ** 3
    weights /= weights.sum()
    copies = np.stack([np.bincount(systematic(weights, draw), minlength=50) for draw in rng.random(2000)])
    assert ((copies == np.floor(50 * weights)) | (copies == np.ceil(50 * weights))).all()
    assert (copies.sum(axis=1) == 50).all()
    assert copies.mean(axis=0) == pytest.approx(50 * weights, abs=0.05), "unbiased"


def test_guesses_are_drawn_sooner_and_the_best_guess_is_among_the_masks() -> None:
    losses = np.array([0.1, 0.2, 0.3, 2.0, 2.0, 2.0, 2.0, 2.0]).reshape(1, 8, 1)
    asked: list[Particles] = []

    def flat(particles: Particles) -> npt.NDArray[np.float64]:
        asked.append(particles.copy())
        return np.full(len(particles), 0.5)

    block = Block("a", 1, 8, 3, losses=losses)
    search([block], flat, FilterSettings(particles=200, steps=1, hold=0, mutation=0.0, guided=1.0), seed=[0])
    guess = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    (masks,) = asked
    assert (masks == guess).all(axis=1).any()
    drawn: list[Particles] = []
    for seed in range(50):
        asked.clear()
        search([block], flat, FilterSettings(particles=10, steps=1, hold=0, mutation=0.0, guided=1.0), seed=[seed])
        drawn.append(asked[0])
    often = np.concatenate(drawn).mean(axis=0)
    assert often[0] >= often[1] >= often[2] > 2 * often[3:].max()


def test_a_guess_that_is_right_is_found_at_once() -> None:
    errors = Quadratic(30)
    errors.pair[:] = 0.0
    block = Block("k", 1, 30, 15, losses=errors.single.reshape(1, 30, 1))
    best = np.argsort(errors.single)[:15]
    for hold in (0, 3):
        found = search([block], errors, FilterSettings(particles=5, steps=2, hold=hold), seed=[0])
        assert np.array_equal(np.flatnonzero(found.particle), np.sort(best))


def test_more_than_may_go_is_refused() -> None:
    with pytest.raises(ValueError, match="more units are to be pruned than may go in: a"):
        search([Block("a", 1, 4, 4)], Quadratic(4), SETTINGS, seed=[0])
