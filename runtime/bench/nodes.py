"""Where a run's time goes: ONNX Runtime's own profile of every node, as a table."""

import json
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.bench.candidate import onnxruntime_providers
from runtime.bench.inputs import make_inputs
from runtime.bench.model import open_model
from runtime.library import way_of
from runtime.results import BenchmarkError

__all__ = ["NodeTime", "profile_nodes"]

_SEED = 0
_WARM_UP_RUNS = 5
_NODE_SUFFIX = "_kernel_time"
_LAYERS = ("FBSConv", "FBSConvDepthwise", "FBSConvInt8", "FBSConvDepthwiseInt8")


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph that ONNX Runtime runs (after its own rewriting, so names may be its own).

    Attributes:
        name: The node's.
        op: Its type; ours are those of `exporters.opset`.
        way: How a native layer came to its outputs, see `runtime.library.way_of`; empty for everything else.
        output_bytes: What it writes.
        median_us: Median over the runs.
        share: Of the sum over all nodes, 0-1. Time between the nodes belongs to none of them.
    """

    name: str
    op: str
    way: str
    output_bytes: int
    median_us: float
    share: float


def profile_nodes(
    path: str | Path,
    *,
    threads: int = 1,
    batch: int = 1,
    runs: int = 30,
    stock: bool = False,
    isa: str | None = None,
    provider: str = "cpu",
) -> list[NodeTime]:
    """Returns the time of every node, in order of execution. Being watched costs each node about a microsecond.

    Args:
        path: An ONNX file.
        threads: Threads of the session.
        batch: Samples per run.
        runs: Watched runs, after a few others.
        stock: Without the native library.
        isa: Instruction set of the native kernels; None is the best one here.
        provider: As `benchmark` takes it.

    Raises:
        BenchmarkError: The file is not a model, does not take the batch, or the provider is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(
            str(path),
            stock=stock,
            isa=isa,
            providers=onnxruntime_providers(provider),
            threads=threads,
            profile_prefix=str(Path(folder) / "nodes"),
        )
        inputs = make_inputs(model.inputs, batch=batch, seed=_SEED)
        for _ in range(_WARM_UP_RUNS + runs):
            model.session.run(inputs)
        events = json.loads(Path(model.session.onnx_session.end_profiling()).read_text(encoding="utf-8"))
        nodes = _nodes(events)
        native = model.session.isa is not None  # ways are known as long as the session lives
        ways = {name: way_of(name) if native and node.op in _LAYERS else "" for name, node in nodes.items()}
    if not nodes:
        raise BenchmarkError(f"{path}: ONNX Runtime's profile names no node")
    medians = {name: statistics.median(node.times_us[_WARM_UP_RUNS:] or node.times_us) for name, node in nodes.items()}
    total = sum(medians.values()) or 1.0
    return [
        NodeTime(name, node.op, ways[name], node.output_bytes, medians[name], medians[name] / total)
        for name, node in nodes.items()
    ]


@dataclass
class _Node:
    op: str
    output_bytes: int
    times_us: list[float] = field(default_factory=list)


def _nodes(events: list[dict[str, Any]]) -> dict[str, _Node]:  # Any: JSON values
    """By name, in order of execution."""
    nodes: dict[str, _Node] = {}
    for event in events:
        name, about = str(event.get("name", "")), event.get("args", {})
        if event.get("cat") != "Node" or not name.endswith(_NODE_SUFFIX):
            continue
        name = name.removesuffix(_NODE_SUFFIX)
        node = nodes.setdefault(name, _Node(about.get("op_name", ""), int(about.get("output_size", 0))))
        node.times_us.append(float(event["dur"]))
    return nodes
