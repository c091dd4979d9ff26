"""Small ONNX networks, one operator after the other, and how long ONNX Runtime takes for them."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Convolution", "best_times_ms", "chain", "processor"]


@dataclass(frozen=True)
class Convolution:
    """One convolution with a ReLU behind it, which ONNX Runtime fuses.

    Attributes:
        width: output channels.
        kernel: height and width of the kernel; odd.
        groups: convolution groups.
    """

    width: int
    kernel: int = 1
    groups: int = 1


def chain(shape: tuple[int, int, int], steps: Sequence[Convolution | str]) -> onnx.ModelProto:
    """Returns a network with one input `x` of batch 1.

    Args:
        shape: channels, height, width of the input.
        steps: convolutions, `silu`, or `scale` (a product with one number per channel).
    """
    nodes, weights, name, width = [], {}, "x", shape[0]
    for i, step in enumerate(steps):
        out = f"v{i}"
        if step == "silu":
            nodes += [helper.make_node("Sigmoid", [name], [f"s{i}"]), helper.make_node("Mul", [name, f"s{i}"], [out])]
        elif step == "scale":
            weights[f"w{i}"] = np.linspace(0.9, 1.1, width, dtype=np.float32).reshape(1, width, 1, 1)
            nodes.append(helper.make_node("Mul", [name, f"w{i}"], [out]))
        else:
            assert isinstance(step, Convolution), step
            fan_in = width // step.groups * step.kernel**2
            weights[f"w{i}"] = np.full((step.width, width // step.groups, step.kernel, step.kernel), 1 / fan_in)
            # Any: numbers and lists of them, as the node has it.
            settings: dict[str, Any] = {"group": step.groups, "pads": [step.kernel // 2] * 4}
            nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], **settings))
            nodes.append(helper.make_node("Relu", [f"c{i}"], [out]))
            width = step.width
        name = out
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *shape])
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width, *shape[1:]])
    constants = [numpy_helper.from_array(array.astype(np.float32), key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, "chain", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def best_times_ms(models: Sequence[onnx.ModelProto], *, threads: int = 1, rounds: int = 15) -> list[float]:
    """Returns the best time of each network in ONNX Runtime, all taking turns so that other work hits all alike.

    One thread is timed by its processor time, which waiting for other work does not add to.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    sessions, inputs = [], []
    for model in models:
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        sessions.append(session)
        inputs.append({"x": np.ones(session.get_inputs()[0].shape, dtype=np.float32)})
    best = np.full(len(models), np.inf)
    for turn in range(rounds + 1):  # the first one warms up
        for i, (session, feed) in enumerate(zip(sessions, inputs, strict=True)):
            start = clock()
            session.run(None, feed)
            if turn:
                best[i] = min(best[i], clock() - start)
    return [float(seconds) * 1e3 for seconds in best]


def processor() -> str:
    """Returns the processor as the operating system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
