"""How many bits each layer gets: from the sensitivity of single layers to a path of ever smaller networks.

    sensitivity    the loss with one layer alone in b bits, for each layer and each b
    path           from the longest words down; each step shortens one layer's words, the one whose loss grows
                   least per bit saved

The losses of single layers are taken to add up when the path is laid (the order needs no more); what a point on the
path is worth is measured with all layers in fixed point together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Sensitivity", "last_that_holds", "lowering_path", "sweep"]


@dataclass(frozen=True)
class Sensitivity:
    """One layer alone in fixed point, the others as they were.

    Attributes:
        name: Of the weight.
        bits: Its word length.
        loss: Mean loss on the validation split.
        top1: Part of it that is right, 0 to 1.
    """

    name: str
    bits: int
    loss: float
    top1: float

    def to_json(self) -> dict[str, Any]:  # JSON values
        """Returns plain values under the attributes' names."""
        return asdict(self)


def sweep(
    names: Iterable[str], options: Sequence[int], measure: Callable[[Mapping[str, int]], tuple[float, float]]
) -> list[Sensitivity]:
    """Returns the sensitivity of every layer at every word length.

    Args:
        names: Of the weights.
        options: Word lengths.
        measure: Loss and accuracy of the network with the named weights, and no others, in so many bits.
    """
    return [Sensitivity(name, bits, *measure({name: bits})) for name in names for bits in options]


def lowering_path(
    sizes: Mapping[str, int],
    table: Iterable[Sensitivity],
    options: Sequence[int],
    *,
    width: Callable[[int], int],
) -> list[dict[str, int]]:
    """Returns choices of word lengths, each smaller than the one before; the first has the longest words everywhere.

    A layer's loss is taken not to fall with shorter words, so a chance improvement does not lead the way.

    Args:
        sizes: Weights in each layer.
        table: The loss of each layer at each of the options.
        options: Word lengths that a layer may have.
        width: Bits that a word of so many bits takes where it is stored.

    >>> table = [Sensitivity("a", 8, 1.0, 0.9), Sensitivity("a", 4, 1.1, 0.9),
    ...          Sensitivity("b", 8, 1.0, 0.9), Sensitivity("b", 4, 2.0, 0.5)]
    >>> lowering_path({"a": 10, "b": 10}, table, (8, 4), width=lambda bits: bits)
    [{'a': 8, 'b': 8}, {'a': 4, 'b': 8}, {'a': 4, 'b': 4}]
    """
    measured = {(entry.name, entry.bits): entry.loss for entry in table}
    ordered = sorted(set(options), reverse=True)
    loss: dict[tuple[str, int], float] = {}
    for name in sizes:
        worst = measured[name, ordered[0]]
        for bits in ordered:
            worst = max(worst, measured[name, bits])
            loss[name, bits] = worst
    now = dict.fromkeys(sizes, ordered[0])
    path = [dict(now)]
    while moves := [(name, bits) for name in sizes for bits in ordered if width(bits) < width(now[name])]:

        def price(move: tuple[str, int]) -> tuple[float, int, str]:
            name, bits = move
            saved = sizes[name] * (width(now[name]) - width(bits))
            # Of equal prices the smaller step first, then the name: the same path every time.
            return (loss[name, bits] - loss[name, now[name]]) / max(saved, 1), -bits, name

        name, bits = min(moves, key=price)
        now[name] = bits
        path.append(dict(now))
    return path


def last_that_holds(count: int, holds: Callable[[int], bool]) -> int | None:
    """Returns the last index below `count` for which something holds that holds up to some point; None for none.

    Halves the range each time, so it asks about log2(count) times. Where the border is not clean, an index that holds.

    >>> last_that_holds(10, lambda index: index <= 6)
    6
    """
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return None if low < 0 else low
