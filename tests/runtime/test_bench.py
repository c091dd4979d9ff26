"""Benchmarks of tiny models: order, numbers that are not times, one clear line for whatever goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import runtime
from runtime.bench import PROVIDERS, BenchmarkStep, Candidate, benchmark, worker
from runtime.bench.candidate import on_device
from runtime.bench.device_run import bind
from runtime.bench.footprint import file_bytes
from runtime.bench.inputs import InputInfo, make_inputs
from runtime.bench.model import open_model
from runtime.bench.process import WorkerProcess
from runtime.results import BenchmarkError

QUICK = {"runs": 2, "rounds": 2, "min_time_s": 0.0, "timeout_s": 60.0}


def tiny_model(
    *, batch: int | str = "batch", dtype: int = TensorProto.FLOAT, metadata: dict[str, str] | None = None
) -> onnx.ModelProto:
    """A model of one product with 8x8 weights on (batch, 8) samples."""
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["real", "weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", dtype, [batch, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 8])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    return model


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_model(metadata={"compress.macs": "64", "compress.density": "0.5"}), path)
    return path


def test_results_come_in_order_and_rounds_alternate(model_path, tmp_path):
    other = tmp_path / "pixels.onnx"
    onnx.save(tiny_model(dtype=TensorProto.UINT8), other)
    steps: list[BenchmarkStep] = []
    results = benchmark([model_path, other], threads=(1, 2), batch=3, progress=steps.append, **QUICK)

    assert [(Path(result.model).name, result.threads) for result in results] == [
        ("tiny.onnx", 1),
        ("pixels.onnx", 1),
        ("tiny.onnx", 2),
        ("pixels.onnx", 2),
    ]
    first_half = [(step.action, step.label, step.round) for step in steps if step.threads == 1]
    assert first_half == [
        ("open", "tiny.onnx", 0),
        ("open", "pixels.onnx", 0),
        ("warm up", "tiny.onnx", 0),
        ("warm up", "pixels.onnx", 0),
        ("round", "tiny.onnx", 1),
        ("round", "pixels.onnx", 1),
        ("round", "tiny.onnx", 2),
        ("round", "pixels.onnx", 2),
    ]
    assert [step.step for step in steps] == list(range(1, steps[0].num_steps + 1))

    for result in results:
        assert result.batch == 3
        assert result.runs == 4  # two rounds of two
        assert 0 < result.latency_ms.p50 <= result.latency_ms.p90 <= result.latency_ms.p99
        # Python with NumPy and ONNX Runtime needs tens of MB, and this model next to nothing.
        assert 10e6 < result.rss_before_session_bytes <= result.peak_rss_bytes < 1e9
        assert result.isa is None
        assert result.speedup_to_first.min <= result.speedup_to_first.median <= result.speedup_to_first.max
    assert results[0].speedup_to_first.median == results[0].speedup_to_first.max == 1.0
    assert results[0].file_bytes == model_path.stat().st_size
    assert (results[0].macs, results[0].density, results[0].method) == (64, 0.5, None)
    assert results[1].macs is None


def test_one_file_twice_with_different_settings(model_path):
    results = benchmark([Candidate(model_path), Candidate(model_path, stock=True)], **QUICK)
    assert [result.label for result in results] == ["tiny.onnx", "tiny.onnx (stock)"]
    assert results[0].model == results[1].model == str(model_path)


def test_workers_stand_still_unless_asked(model_path):
    # The point of the whole arrangement: nobody but the worker that answers may use the processor.
    worker = WorkerProcess("tiny", timeout_s=60.0)
    try:
        worker.ask(
            "open",
            path=str(model_path),
            stock=True,
            isa=None,
            providers=["CPUExecutionProvider"],
            threads=2,
            batch=1,
            seed=0,
        )
        state = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        assert state == "T"
    finally:
        worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


def test_external_data_counts_as_file_bytes(tmp_path):
    path = tmp_path / "big.onnx"
    onnx.save(tiny_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    data = tmp_path / "weights.bin"
    (tmp_path / "big.onnx.data").write_bytes(b"a neighbour that the model does not name")
    assert data.stat().st_size >= 8 * 8 * 4
    assert file_bytes(path) == path.stat().st_size + data.stat().st_size


def test_all_missing_files_are_named(model_path, tmp_path):
    with pytest.raises(BenchmarkError, match=r"one\.onnx: no such file; .*two\.onnx: no such file"):
        benchmark([tmp_path / "one.onnx", model_path, tmp_path / "two.onnx"], **QUICK)


def test_nothing_to_measure():
    with pytest.raises(BenchmarkError, match="give at least one"):
        benchmark([], **QUICK)


@pytest.mark.parametrize("content", [b"", b"not a model at all"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(BenchmarkError, match=r"^text\.onnx: .*(Protobuf|is empty)"):
        benchmark([path], **QUICK)


def test_a_fixed_batch_says_what_it_is(tmp_path):
    path = tmp_path / "fixed.onnx"
    onnx.save(tiny_model(batch=4), path)
    assert benchmark([path], batch=4, **QUICK)[0].batch == 4
    with pytest.raises(BenchmarkError, match=r"fixed\.onnx: input 'x' has the fixed batch 4, asked for was 1"):
        benchmark([path], batch=1, **QUICK)


def test_metadata_that_is_no_number_is_named(tmp_path):
    path = tmp_path / "odd.onnx"
    onnx.save(tiny_model(metadata={"compress.macs": "many"}), path)
    with pytest.raises(BenchmarkError, match=r"odd\.onnx: metadata compress\.macs is 'many'"):
        benchmark([path], **QUICK)


def test_a_crash_is_reported_with_its_signal(model_path, monkeypatch):
    monkeypatch.setattr("runtime.bench.process._START", "import os; os.abort()")
    with pytest.raises(BenchmarkError, match=r"tiny\.onnx: its benchmark process was ended by SIGABRT during 'open'"):
        benchmark([model_path], **QUICK)


def test_an_exit_is_reported_with_its_last_words(model_path, monkeypatch):
    monkeypatch.setattr("runtime.bench.process._START", "import sys; sys.exit('no more memory')")
    with pytest.raises(BenchmarkError, match=r"exit code 1 during 'open'; its last words: no more memory"):
        benchmark([model_path], **QUICK)


def test_a_hanging_model_is_given_up(model_path, monkeypatch):
    monkeypatch.setattr("runtime.bench.process._START", "import time; time.sleep(60)")
    with pytest.raises(BenchmarkError, match=r"no answer to 'open' within 0\.3 s"):
        benchmark([model_path], **{**QUICK, "timeout_s": 0.3})


def test_an_unknown_provider_lists_the_known(model_path):
    with pytest.raises(BenchmarkError, match="unknown provider 'tpu'; choose from: cpu, cuda, tensorrt"):
        benchmark([model_path], provider="tpu", **QUICK)


def test_a_provider_that_was_not_built_says_what_is_missing(model_path, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BenchmarkError, match=r"needs TensorrtExecutionProvider, .*install onnxruntime-gpu"):
        benchmark([model_path], provider="tensorrt", **QUICK)


def test_a_provider_that_does_not_start_is_an_error_not_the_cpus_time(model_path, monkeypatch):
    # This ONNX Runtime is made to claim CUDA; the worker then finds that only the CPU came up.
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(BenchmarkError, match="CUDAExecutionProvider"):
        benchmark([model_path], provider="cuda", **QUICK)


@pytest.mark.parametrize("bad", [{"threads": (0,)}, {"threads": ()}, {"batch": 0}, {"runs": 0}, {"rounds": 0}])
def test_counts_below_one_are_value_errors(model_path, bad):
    with pytest.raises(ValueError, match="each must be at least 1"):
        benchmark([model_path], **{**QUICK, **bad})


def test_contradicting_settings_are_named(model_path):
    with pytest.raises(BenchmarkError, match="stock=True contradicts isa='avx2'"):
        benchmark([Candidate(model_path, stock=True, isa="avx2")], **QUICK)


def test_bench_imports_neither_torch_nor_onnx():
    script = (
        "import sys, runtime.bench, runtime.bench.worker, runtime.results; "
        "sys.exit(', '.join({'torch', 'onnx', 'compressor'} & set(sys.modules)) or 0)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_a_bound_run_is_the_run(model_path):
    session = runtime.Session(model_path)
    inputs = make_inputs([InputInfo("x", "tensor(float)", ("n", 8))], batch=3, seed=1)
    run = bind(session, inputs, "cpu")
    first, again = run().copy_outputs_to_cpu(), run().copy_outputs_to_cpu()
    for bound, other, plain in zip(first, again, session.run(inputs), strict=True):
        np.testing.assert_array_equal(bound, plain)
        np.testing.assert_array_equal(other, plain)


def test_a_device_is_measured_with_bound_tensors_and_without_native_kernels(model_path, monkeypatch):
    asked = []
    monkeypatch.setattr(worker, "bind", lambda session, inputs, device: asked.append(device) or (lambda: None))
    monkeypatch.setattr(
        worker, "open_model", lambda path, **_: open_model(path, **{**_, "providers": PROVIDERS["cpu"]})
    )
    opened = worker.Worker()
    arguments = {"path": model_path, "stock": True, "isa": None, "threads": 1, "batch": 1, "seed": 0}
    for provider in ("cpu", "cuda", "tensorrt"):
        opened.open(providers=list(PROVIDERS[provider]), **(arguments | {"path": str(model_path)}))
    assert asked == ["cuda", "cuda"]
    with pytest.raises(BenchmarkError, match="instruction sets are the processor's"):
        on_device([Candidate("x.onnx", isa="avx2")], "cuda")
    assert on_device([Candidate("x.onnx", isa="avx2")], "cpu")[0].isa == "avx2"
