"""How masks change from step to step of the particle filter: units are pruned, swapped, and crossed over.

Every function keeps the number of pruned units of each block as it is told, and leaves each row of a block that asks
for it a live unit. The operators are a reconstruction, see `structured_filter`.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compressor.methods.structured_masks import Block, Particles, split_blocks

__all__ = ["cross", "guess", "mutate", "prune"]

_Floats = npt.NDArray[np.float64]

# One swap among thousands of kernels changes nothing: a mutation swaps one of so many pruned units.
_PRUNED_PER_SWAP = 50
_SHARPNESS = 4.0  # twice the guessed loss: a sixteenth of the odds; not tuned


def prune(
    particles: Particles, blocks: Sequence[Block], counts: Sequence[int], guided: float, rng: np.random.Generator
) -> None:
    """Changes `particles`: each loses live units until `counts` are gone."""
    for part, block, count in zip(split_blocks(particles, blocks), blocks, counts, strict=True):
        more = count - int((part[0] != 0).sum())
        if not more:
            continue
        keys, ways = _draws(block, len(part), guided, rng)
        _take(part, keys, ways, more, keeps_rows=block.keeps_rows)


def guess(particles: Particles, blocks: Sequence[Block], counts: Sequence[int]) -> bool:
    """Changes the first particle to the mask of least guessed loss, and says whether there are guesses."""
    guessed = False
    for part, block, count in zip(split_blocks(particles, blocks), blocks, counts, strict=True):
        if block.losses is not None and count:
            guessed, part[0] = True, 0
            keys, ways = block.losses.min(axis=2)[None], (1 + block.losses.argmin(axis=2)).astype(np.int8)[None]
            _take(part[:1], keys, ways, count, keeps_rows=block.keeps_rows)
    return guessed


def _draws(block: Block, number: int, guided: float, rng: np.random.Generator) -> tuple[_Floats, Particles]:
    """Returns keys and ways, (number, rows, columns): units of small keys go, in those ways.

    The smallest of exponential variates divided by odds are a draw without replacement with those odds.
    """
    if block.losses is None:
        shape = (number, block.rows, block.columns)
        return rng.random(shape), rng.integers(1, block.ways + 1, shape, dtype=np.int8)
    slowed = np.where(rng.random((number, 1, 1, 1)) < guided, block.losses**_SHARPNESS, 1.0)
    times = rng.exponential(size=slowed.shape) * slowed
    return times.min(axis=3), (1 + times.argmin(axis=3)).astype(np.int8)


def _take(part: Particles, keys: _Floats, ways: Particles, more: int, *, keeps_rows: bool) -> None:
    """Changes masks (n, rows, columns): of each, the `more` live units of smallest keys go."""
    keys = np.where(part == 0, keys, np.inf)
    if keeps_rows:
        keys[_one_live_of_each_row(part, keys)] = np.inf
    gone = np.argpartition(keys.reshape(len(part), -1), more - 1, axis=1)[:, :more]
    particle, row, column = np.arange(len(part))[:, None], gone // part.shape[2], gone % part.shape[2]
    part[particle, row, column] = ways[particle, row, column]


def _one_live_of_each_row(part: Particles, keys: _Floats) -> npt.NDArray[np.bool_]:
    """Returns a mask of one live unit in each row that has any, the one of largest key."""
    place = np.where(part == 0, keys, -1.0).argmax(axis=2)
    chosen = np.zeros(part.shape, dtype=np.bool_)
    np.put_along_axis(chosen, place[..., None], True, axis=2)
    chosen &= part == 0
    return chosen


def mutate(
    particles: Particles,
    blocks: Sequence[Block],
    chosen: npt.NDArray[np.int64],
    guided: float,
    rng: np.random.Generator,
) -> None:
    """Changes the chosen particles: in one block with pruned units, some are swapped or pruned in another way."""
    parts = split_blocks(particles, blocks)
    for place in chosen:
        able = [i for i, part in enumerate(parts) if (part[place] != 0).any()]
        if able:
            index = able[int(rng.integers(len(able)))]
            _move(parts[index][place], blocks[index], guided, rng)


def _move(part: Particles, block: Block, guided: float, rng: np.random.Generator) -> None:
    """Changes a mask (rows, columns): some pruned units are pruned in another way, or come back and live ones go."""
    pruned = np.flatnonzero(part)
    moved = rng.choice(pruned, math.ceil(len(pruned) / _PRUNED_PER_SWAP), replace=False)
    row, column = moved // block.columns, moved % block.columns
    if block.ways > 1 and (len(pruned) == block.size or rng.random() < 0.5):
        part[row, column] = 1 + (part[row, column] - 1 + rng.integers(1, block.ways, len(moved))) % block.ways
        return
    part[row, column] = 0
    keys, ways = _draws(block, 1, guided, rng)
    keys[0, row, column] += keys.max()  # of those that came back none goes again, unless nothing else may
    _take(part[None], keys, ways, len(moved), keeps_rows=block.keeps_rows)


def cross(
    particles: Particles, blocks: Sequence[Block], weights: _Floats, part: float, rng: np.random.Generator
) -> _Floats:
    """Changes `particles`: some become children of themselves and another. Returns the weights, a child's the mean."""
    parents, children, weights = particles.copy(), rng.random(len(particles)) < part, weights.copy()
    first = split_blocks(parents, blocks)
    into = split_blocks(particles, blocks)
    old = weights.copy()
    for place in np.flatnonzero(children):
        other = int(rng.integers(len(particles)))
        for i, block in enumerate(blocks):
            into[i][place] = _child(first[i][place], first[i][other], block, rng)
        weights[place] = (old[place] + old[other]) / 2
    weights /= weights.sum()
    return weights


def _child(mother: Particles, father: Particles, block: Block, rng: np.random.Generator) -> Particles:
    """Returns a mask with as many live units as each parent has."""
    num_live = int((mother == 0).sum())
    if not num_live:
        return np.where(rng.random(mother.shape) < 0.5, mother, father)
    live = (mother == 0).astype(np.float64) + (father == 0)  # how many of the two
    keys = np.where(live == 1, rng.random(mother.shape), live)  # both: 2, one: in [0, 1), none: 0
    keys[live == 0] = -1.0
    if block.keeps_rows:
        np.put_along_axis(keys, keys.argmax(axis=1)[:, None], 3.0, axis=1)
    dead = np.ones(mother.size, dtype=np.bool_)
    dead[np.argpartition(-keys, num_live - 1, axis=None)[:num_live]] = False
    heads = rng.random(mother.shape) < 0.5
    ways = np.where((mother != 0) & (heads | (father == 0)), mother, father)
    return np.where(dead.reshape(mother.shape), ways, 0).astype(np.int8)
