import pytest

from compressor.costs.staircase import measure_staircase, staircase_from_json, staircase_to_json, step_of
from compressor.errors import CompressorError
from compressor.select import STEPS, machine_target

# One thread of an AVX-512 server, six 3×3 convolutions at 28×28, ms.
MEASURED = {
    96: 4.8, 100: 6.3, 104: 6.3, 112: 6.3, 116: 8.1, 120: 8.05, 127: 11.1, 128: 8.1, 129: 11.3, 130: 11.5, 144: 10.9,
    192: 18.5, 240: 29.1, 248: 32.8, 250: 38.6, 255: 41.1, 256: 32.4,
}  # fmt: skip


def test_step_of_a_measured_machine() -> None:
    assert step_of(list(MEASURED), list(MEASURED.values())) == 16


def test_step_of_a_machine_without_steps() -> None:
    assert step_of(range(50, 90), [w / 10 * w for w in range(50, 90)]) == 1


def test_step_of_blocks_of_eight() -> None:
    padded = [-(-w // 8) * 8 for w in range(64, 129)]
    assert step_of(range(64, 129), [p * p / 2000 for p in padded]) == 8


def test_a_short_measurement_and_its_json() -> None:
    staircase = measure_staircase(widths=(4, 5, 8), rounds=1)
    assert staircase.widths == (4, 5, 8)
    assert all(ms > 0 for ms in staircase.latency_ms)
    assert staircase_from_json(staircase_to_json(staircase)) == staircase
    with pytest.raises(CompressorError, match="not a profile"):
        staircase_from_json("{}")


def test_this_machine_has_a_default() -> None:
    assert STEPS[machine_target()] > 1
