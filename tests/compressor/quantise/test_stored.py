import json

import pytest
import torch

from compressor.quantise import describe, from_levels, quantise, read, to_stored

STATE = {
    "a": torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)),
    "b": torch.randn(3, 6, generator=torch.Generator().manual_seed(1)),
    "bias": torch.ones(4),
}


def quantised() -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    fixed = {"a": quantise(STATE["a"], 4), "b": quantise(STATE["b"], 8, axis=1)}
    floats = {**STATE, **{name: _values(values) for name, values in fixed.items()}}
    return describe(fixed), floats


def _values(fixed: object) -> torch.Tensor:
    from compressor.quantise import dequantise

    return dequantise(fixed)  # type: ignore[arg-type]


def test_levels_and_steps_give_the_floats_back_bit_for_bit() -> None:
    description, floats = quantised()
    description = json.loads(json.dumps(description))
    stored = to_stored(description, floats)
    assert stored["a"].dtype == stored["b"].dtype == torch.int8
    assert stored["bias"] is floats["bias"]
    back = from_levels(description, stored)
    assert list(back) == list(floats)
    assert all(torch.equal(back[name], floats[name]) for name in floats)


def test_levels_are_read_from_floats() -> None:
    description, floats = quantised()
    found = read(description, floats)
    assert torch.equal(found["a"].levels, quantise(STATE["a"], 4).levels)
    assert (found["b"].axis, found["b"].bits, found["b"].step.shape) == (1, 8, (6,))


def test_weights_that_left_their_levels_are_noticed() -> None:
    description, floats = quantised()
    floats["a"] = floats["a"] + 1e-4
    with pytest.raises(ValueError, match="a is not what its 4-bit levels stand for"):
        to_stored(description, floats)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 9}, "the description of a lacks usable"),
        ({"steps": []}, "a needs 1 steps above 0, described are 0"),
        ({"steps": [-1.0]}, "a needs 1 steps above 0"),
        ({"axis": 0}, "a needs 4 steps above 0, described are 1"),
        ({"bits": 3}, "a has levels that 3 bits do not hold"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    description, floats = quantised()
    stored = to_stored(description, floats)
    entry = description["a"]
    assert isinstance(entry, dict)
    with pytest.raises(ValueError, match=message):
        from_levels({**description, "a": {**entry, **change}}, stored)


def test_floats_in_place_of_levels_are_refused() -> None:
    description, floats = quantised()
    with pytest.raises(ValueError, match="a is not stored as levels"):
        from_levels(description, floats)
    with pytest.raises(ValueError, match="there is no weight a"):
        read(description, {"b": floats["b"]})
