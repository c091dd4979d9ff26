"""Residual blocks: `activation(shortcut(x) + branch(x))` as a module with its layers inside.

An ONNX graph is flat. The channel graph takes a branch for removable only if one module holds the whole block, so steps
between a value and the sum in which all its paths meet again are put into a program of their own. A block is called
what its layers' names begin with, where no layer elsewhere begins so; otherwise `block_1`, `block_2`, …
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from compressor.onnx_in.program import BLOCK, Program, Step

__all__ = ["nested"]

# A sum that closes a longer detour is no block but a skip over half of the network.
_MOST_STEPS = 40
_ACTIVATIONS = ("relu", "relu6", "silu", "hardswish", "gelu")
_LAST = ("conv1d", "conv2d", "linear")


@dataclass(frozen=True)
class _Region:
    """Places of a block's steps, in order, and the value that it reads."""

    places: tuple[int, ...]
    source: str


def nested(program: Program, state: Mapping[str, Tensor]) -> tuple[Program, dict[str, Tensor]]:
    """Returns the program with its residual blocks as steps of their own, and the state dict that fits it.

    Args:
        program: Flat.
        state: Its weights and constants.
    """
    regions = _regions(program)
    taken = {place for region in regions for place in region.places}
    left = [step for place, step in enumerate(program.steps) if place not in taken]
    outside = {name for step in left for name in step.values}
    weights = {path: value for path, value in state.items() if path not in program.constants}
    ends = {region.places[-1]: region for region in regions}
    steps: list[Step] = []
    moved: dict[str, Tensor] = {}
    for place, step in enumerate(program.steps):
        if place in ends:
            block = _block(program, ends[place], number=1 + sum(s.kind == BLOCK for s in steps))
            for inner, was in zip(_layers(block), _names(program, ends[place]), strict=True):
                moved.update(_renamed(weights, was, inner.name))
            assert block.body is not None
            moved.update({f"{block.name}.{name}": state[name] for name in block.body.constants})
            steps.append(block)
        elif place not in taken:
            if step.name:
                moved.update(_renamed(weights, step.name, step.name))
            steps.append(step)
    kept = {name: about for name, about in program.constants.items() if name in outside}
    moved.update({name: state[name] for name in kept})
    return replace(program, steps=tuple(steps), constants=kept), moved


def _regions(program: Program) -> list[_Region]:
    maker = {name: place for place, step in enumerate(program.steps) for name in step.outputs}
    readers: dict[str, list[int]] = {}
    for place, step in enumerate(program.steps):
        for name in step.values:
            readers.setdefault(name, []).append(place)
    readers.setdefault(program.output, []).append(len(program.steps))  # the caller reads it
    found: list[_Region] = []
    taken: set[int] = set()
    for place, step in enumerate(program.steps):
        if step.kind != "add" or len(set(step.values) - set(program.constants)) != 2 or place in taken:
            continue
        region = _region(program, place, maker, readers)
        if region is not None and taken.isdisjoint(region.places):
            found.append(region)
            taken.update(region.places)
    return found


def _region(
    program: Program, total: int, maker: Mapping[str, int], readers: Mapping[str, Sequence[int]]
) -> _Region | None:
    """Walks back from a sum until one value is left that everything comes from."""
    inside, open_values = {total}, set(program.steps[total].values)
    while len(open_values) > 1:
        latest = max(open_values, key=lambda name: maker.get(name, -1))
        if latest not in maker or len(inside) > _MOST_STEPS:
            return None
        step = program.steps[maker[latest]]
        inside.add(maker[latest])
        open_values = (open_values - set(step.outputs)) | (set(step.values) - set(program.constants))
    (result,) = program.steps[total].outputs
    after = readers.get(result, ())
    if len(after) == 1 and after[0] < len(program.steps) and program.steps[after[0]].kind in _ACTIVATIONS:
        inside.add(after[0])
    places = tuple(sorted(inside))
    last = set(program.steps[places[-1]].outputs)
    for place in places:
        for name in program.steps[place].outputs:
            if name not in last and not inside.issuperset(readers.get(name, ())):
                return None
    if not any(program.steps[place].kind in _LAST for place in places):
        return None
    return _Region(places, next(iter(open_values)))


def _block(program: Program, region: _Region, *, number: int) -> Step:
    inner = [program.steps[place] for place in region.places]
    names = [step.name for step in inner if step.name]
    others = [step.name for place, step in enumerate(program.steps) if step.name and place not in region.places]
    name = _common(names, others)
    if not name:
        name = f"block_{number}"
        while any(f"{other}.".startswith(f"{name}.") for other in [*names, *others]):
            name += "_"
        inner = [replace(step, name=f"{name}.{step.name}") if step.name else step for step in inner]
    used = {value for step in inner for value in step.values}
    constants = {key: about for key, about in program.constants.items() if key in used}
    (output,) = inner[-1].outputs
    return Step(BLOCK, (region.source,), (output,), {}, name, Program(region.source, output, tuple(inner), constants))


def _common(names: Sequence[str], others: Sequence[str]) -> str:
    """The path that all layers of the block lie under, if no other layer does; else empty."""
    shared = names[0].split(".")[:-1]
    while shared and not all(name.startswith(f"{'.'.join(shared)}.") for name in names):
        shared.pop()
    path = ".".join(shared)
    return "" if any(f"{other}.".startswith(f"{path}.") for other in others) else path


def _layers(block: Step) -> list[Step]:
    assert block.body is not None
    return [step for step in block.body.steps if step.name]


def _names(program: Program, region: _Region) -> list[str]:
    return [program.steps[place].name for place in region.places if program.steps[place].name]


def _renamed(weights: Mapping[str, Tensor], was: str, now: str) -> dict[str, Tensor]:
    return {
        f"{now}.{path.removeprefix(f'{was}.')}": value
        for path, value in weights.items()
        if path.rpartition(".")[0] == was
    }
