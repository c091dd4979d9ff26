from collections.abc import Mapping
from itertools import pairwise

import pytest

from compressor.quantise import Sensitivity, last_that_holds, lowering_path, stored_bits, sweep

OPTIONS = (8, 6, 4, 2)
SIZES = {"first": 100, "wide": 10_000, "last": 500}
COST = {"first": 5.0, "wide": 1.0, "last": 0.5}


def loss(name: str, bits: int) -> float:
    return 0.1 + COST[name] * 4.0**-bits


def table() -> list[Sensitivity]:
    return [Sensitivity(name, bits, loss(name, bits), 0.9) for name in SIZES for bits in OPTIONS]


def total(bits: Mapping[str, int]) -> int:
    return sum(SIZES[name] * words for name, words in bits.items())


def test_sweep_quantises_one_layer_at_a_time() -> None:
    seen: list[Mapping[str, int]] = []

    def measure(bits: Mapping[str, int]) -> tuple[float, float]:
        seen.append(bits)
        return 0.5, 0.75

    found = sweep(["a", "b"], (8, 4), measure)
    assert seen == [{"a": 8}, {"a": 4}, {"b": 8}, {"b": 4}]
    assert found[1] == Sensitivity("a", 4, 0.5, 0.75)


def test_path_goes_from_the_longest_words_to_the_shortest_and_always_down() -> None:
    path = lowering_path(SIZES, table(), OPTIONS, width=lambda bits: bits)
    assert set(path[0].values()) == {8}
    assert set(path[-1].values()) == {2}
    totals = [total(bits) for bits in path]
    assert totals == sorted(set(totals), reverse=True)
    assert all(after[name] <= before[name] for before, after in pairwise(path) for name in SIZES)


def test_sensitive_small_layers_keep_their_words_longest() -> None:
    path = lowering_path(SIZES, table(), OPTIONS, width=lambda bits: bits)
    first_below = {name: next(i for i, bits in enumerate(path) if bits[name] < 4) for name in SIZES}
    assert first_below["first"] > first_below["wide"]


def test_chance_improvements_do_not_lead_and_equal_prices_have_an_order() -> None:
    lucky = [Sensitivity(name, bits, 0.1 if bits == 2 else 0.2, 0.9) for name in SIZES for bits in OPTIONS]
    path = lowering_path(SIZES, lucky, OPTIONS, width=lambda bits: bits)
    assert path[1] == {"first": 6, "wide": 8, "last": 8}
    assert path == lowering_path(dict(reversed(SIZES.items())), lucky, OPTIONS, width=lambda bits: bits)


def test_widths_of_a_file_make_only_their_own_steps() -> None:
    path = lowering_path(SIZES, table(), (8, 4), width=stored_bits)
    assert len(path) == 1 + len(SIZES)
    assert set(path[-1].values()) == {4}


@pytest.mark.parametrize("border", range(-1, 20))
def test_last_that_holds_is_found_in_few_questions(border: int) -> None:
    asked: list[int] = []

    def holds(index: int) -> bool:
        asked.append(index)
        return index <= border

    assert last_that_holds(20, holds) == (None if border < 0 else border)
    assert len(asked) <= 5
