"""Measures ONNX models in milliseconds and bytes: each in its own process, one at a time, rounds alternating.

>>> from runtime.bench import Candidate, benchmark
>>> results = benchmark(["dense.onnx", Candidate("fbs.onnx", stock=True), "fbs.onnx"])  # doctest: +SKIP
>>> results[2].speedup_to_first.median  # doctest: +SKIP
2.1
"""

from runtime.bench.candidate import PROVIDERS, Candidate
from runtime.bench.nodes import NodeTime, profile_nodes
from runtime.bench.run import BenchmarkStep, benchmark

__all__ = ["PROVIDERS", "BenchmarkStep", "Candidate", "NodeTime", "benchmark", "profile_nodes"]
