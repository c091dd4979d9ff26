import numpy as np
import pytest

from compressor.graph.ids import IdBook, Ids
from compressor.graph.reshape import reshape


def brute_force(count: int, edges: list[tuple[int, int]]) -> list[int]:
    parent = list(range(count))

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b in edges:
        a, b = find(a), find(b)
        parent[max(a, b)] = min(a, b)
    return [find(i) for i in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_components_equal_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 200))
    edges = generator.integers(0, count, (int(generator.integers(1, count)), 2))
    book = IdBook()
    book.new(count)
    for part in np.array_split(edges, 3):
        book.join(part[:, 0], part[:, 1])
    assert book.roots().tolist() == brute_force(count, edges.tolist())


def test_a_long_chain_is_one_unit() -> None:
    book = IdBook()
    ids = np.random.default_rng(0).permutation(book.new(20_000))
    book.join(ids[:-1], ids[1:])
    assert set(book.roots().tolist()) == {0}


def test_fixed_places_freeze_what_they_meet() -> None:
    book = IdBook()
    ids = book.new(4)
    book.join(ids[:2], book.fixed(2, "input"))
    book.join(ids[1:3], ids[2:4])
    codes = book.reasons(book.roots())
    assert [book.reason_text(c) if c >= 0 else None for c in codes] == ["input"] * 4


def test_views_act_on_ids_as_on_data() -> None:
    book = IdBook()
    ids = Ids((1, 6, 2, 2), (None, book.new(6), None, None))
    flat, readings = reshape(book, ids, (1, 24), mode=0, reason="")
    assert flat.axes[1].tolist() == np.repeat(np.arange(6), 4).tolist()
    assert readings == 1
    back, _ = reshape(book, flat, (1, 6, 4), mode=0, reason="")
    assert back.axes[1].tolist() == list(range(6))
    assert book.roots().tolist() == list(range(6))
    split, readings = reshape(book, ids, (1, 2, 3, 2, 2), mode=0, reason="")
    assert split.axes[2].tolist() == [0, 1, 2]
    assert book.roots().tolist() == [0, 1, 2, 0, 1, 2]
    assert readings == 2
