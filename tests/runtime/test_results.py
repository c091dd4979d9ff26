"""A report says the same after a round through JSON, and keeps to the documented keys."""

import json
from dataclasses import replace

import pytest

from runtime.errors import RuntimeLibraryError
from runtime.machine import Machine, describe_machine
from runtime.results import (
    BenchmarkError,
    BenchmarkReport,
    BenchmarkResult,
    LatencyMs,
    Speedup,
    load_report,
    save_report,
)

RESULT = BenchmarkResult(
    model="nets/fbs.onnx",
    label="fbs.onnx (stock)",
    provider="cpu",
    isa=None,
    threads=4,
    batch=1,
    runs=140,
    rounds=7,
    latency_ms=LatencyMs(1.5, 1.75, 2.0),
    peak_rss_bytes=70_000_000,
    rss_before_session_bytes=55_000_000,
    file_bytes=5_200_000,
    macs=44_200_000,
    density=0.5,
    method="fbs",
    warnings=("the native library is not built",),
    speedup_to_first=Speedup(2.0, 1.9, 2.1),
)


def report() -> BenchmarkReport:
    return BenchmarkReport(describe_machine(), (RESULT, replace(RESULT, isa="avx2", macs=None)))


def test_saved_and_loaded_is_the_same(tmp_path):
    path = tmp_path / "bench.json"
    saved = report()
    save_report(saved, path)
    assert load_report(path) == saved
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]  # no temporary file stays behind


def test_json_has_the_documented_keys():
    values = json.loads(json.dumps(report().to_json()))
    assert set(values) == {"machine", "results"}
    documented = {
        "model",
        "provider",
        "isa",
        "threads",
        "batch",
        "runs",
        "latency_ms",
        "peak_rss_bytes",
        "file_bytes",
        "macs",
    }
    for result in values["results"]:
        assert documented <= set(result)
        assert set(result["latency_ms"]) == {"p50", "p90", "p99"}


def test_a_result_with_only_the_documented_keys_is_read():
    values = RESULT.to_json()
    for extra in ("label", "rounds", "rss_before_session_bytes", "density", "method", "warnings", "speedup_to_first"):
        del values[extra]
    result = BenchmarkResult.from_json(values)
    assert result.latency_ms == RESULT.latency_ms
    assert result.speedup_to_first is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": {}, "results": []}', '{"results": 1, "machine": 2}'])
def test_a_file_that_is_no_report_is_named(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=r"other\.json: not a benchmark report"):
        load_report(path)


def test_saving_into_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_report(report(), tmp_path / "missing" / "bench.json")


def test_an_existing_report_survives_a_failed_save(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text("before")
    bad = BenchmarkReport(describe_machine(), (replace(RESULT, latency_ms=LatencyMs(float("nan"), 1.0, 1.0)),))
    with pytest.raises(ValueError, match="nan"):
        save_report(bad, path)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]


def test_machine_describes_this_machine():
    machine = describe_machine()
    assert machine.cpu
    assert 1 <= machine.usable_cores <= machine.cores
    assert machine.memory_bytes is None or machine.memory_bytes > 2**27
    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine


def test_benchmark_error_is_the_librarys():
    assert issubclass(BenchmarkError, RuntimeLibraryError)
