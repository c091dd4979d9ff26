"""One FBS layer on the native kernels against ONNX Runtime's dense convolution, shape by shape, as a markdown table.

    taskset -c 3 python tests/benchmarks/native_layers.py
    python tests/benchmarks/native_layers.py --threads 1,4 --batches 1,8 --densities 0.5
    python tests/benchmarks/native_layers.py --threads 4 --densities 1,0.5 --scaling

A row is a layer, threads and batch; a column a density: at 0.5 half of the inputs are live and half of the outputs win,
other channels for every sample. Each cell: speed-up / multiplications saved = quotient (1.00 is all of the gain; the
predictor's work counts against it). With --winner-block 16 the winners, and the inputs that a layer before would leave,
are whole blocks of neighbouring channels.

With --scaling the native layer on that many threads is compared with itself on one, round by round: a cell is how many
times as fast it is.

On one thread the two sessions take turns run by run, so that a machine shared with others disturbs both alike; a time
is the 5 % quantile of its runs, the second of each pair, so that what the other session left in the caches is gone, in
the thread's own processor time: others on the core do not count.

On several threads they take turns round by round, with a pause before each: ONNX Runtime's threads wait for work busily
for about 60 ms after a run, and those of the idle session would take the processors from the other's. A round's time is
the median of its runs; the speed-up is the median over the rounds of the ratio of neighbouring ones. `--pin` gives
every thread of both sessions a processor of its own: on a machine with other work the system moves threads otherwise.

Inputs and outputs are bound once, so that a run costs little besides the layer. A dense layer alone changes its input
to ONNX Runtime's blocked layout and its output back, which it would not between two layers: 2 to 5 % of its time, 8 %
of the first layer's, 16 % of 256→64's. The depthwise row is DepthwiseConv on the channels that exist.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import runtime

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime" / "native"))
import native_reference as reference

FLOAT = TensorProto.FLOAT
PAUSE_S, ROUND_S = 0.08, 0.04


@dataclass(frozen=True)
class Shape:
    inputs: int
    outputs: int
    plane: int
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False

    def name(self):
        taps = f"{self.kernel}×{self.kernel}"
        kind = f"depthwise {taps}" if self.depthwise else taps
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{kind}{stride} {self.inputs}→{self.outputs} @{self.plane}²"


SHAPES = (
    Shape(64, 64, 56),
    Shape(128, 128, 28),
    Shape(256, 256, 14),
    Shape(512, 512, 7),
    Shape(512, 512, 28),
    Shape(256, 64, 56, kernel=1),
    Shape(512, 2048, 7, kernel=1),
    Shape(1024, 256, 14, kernel=1),
    Shape(3, 64, 224, kernel=7, stride=2),
    Shape(64, 128, 30, stride=2),
    Shape(192, 192, 8),
    Shape(144, 144, 56, depthwise=True),
)


def conv(shape):
    """ONNX's own layer: constants, and the node from x to y."""
    rng = np.random.default_rng(0)
    per_group = 1 if shape.depthwise else shape.inputs
    weight = rng.normal(size=(shape.outputs, per_group, shape.kernel, shape.kernel)) / (per_group * shape.kernel)
    constants = [
        numpy_helper.from_array(weight.astype(np.float32), "W"),
        numpy_helper.from_array(np.zeros(shape.outputs, np.float32), "B"),
    ]
    node = helper.make_node(
        "Conv", ["x", "W", "B"], ["c"], pads=[shape.kernel // 2] * 4, strides=[shape.stride] * 2,
        kernel_shape=[shape.kernel] * 2, group=shape.inputs if shape.depthwise else 1,
    )  # fmt: skip
    return constants, node


def options_for(threads, *, pin=False, native=False, isa=""):
    """Session options; pinned, the caller is on processor 0 and the session's own threads are on those that follow."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if pin and threads > 1:
        affinities = ";".join(str(2 + number) for number in range(threads - 1))  # counted from 1
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    if native:
        options.add_session_config_entry("compress.isa", isa)
        options.add_session_config_entry("compress.threads", str(threads))
        options.register_custom_ops_library(str(runtime.library_path()))
    return options


def open_session(model, options):
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def session(nodes, inputs, output, constants, options):
    graph = helper.make_graph(nodes, "layer", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("compress", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return open_session(model.SerializeToString(), options)


def dense_run(shape, threads, batch, pin=False):
    constants, node = conv(shape)
    x = helper.make_tensor_value_info("x", FLOAT, [batch, shape.inputs, shape.plane, shape.plane])
    y = helper.make_tensor_value_info("y", FLOAT, [None] * 4)
    dense = session([node, helper.make_node("Relu", ["c"], ["y"])], [x], y, constants, options_for(threads, pin=pin))
    image = np.random.default_rng(1).normal(size=(batch, shape.inputs, shape.plane, shape.plane)).astype(np.float32)
    return bound_run(dense, {"x": image})


def bound_run(opened, feeds):
    """What runs a session on these inputs, without handing Python anything."""
    binding = opened.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for output in opened.get_outputs():
        binding.bind_output(output.name)
    return partial(opened.run_with_iobinding, binding)


def chosen(channels, density, block):
    """How many of `channels` win, whole blocks."""
    return min(channels, -(-max(1, round(channels * density)) // block) * block)


def fbs_run(shape, density, *, threads, batch, isa, block=1, halves=(), in_bytes=False, pin=False):
    """What runs the layer, and how many times fewer multiplications it takes."""
    rng = np.random.default_rng(0)
    options = options_for(threads, pin=pin, native=True, isa=isa)
    live = shape.inputs if shape.inputs <= 4 else chosen(shape.inputs, density, block)  # images keep their channels
    x, index = reference.make_input(rng, live=live, channels=shape.inputs, batch=batch, size=(shape.plane, shape.plane))
    if block > 1 and live < shape.inputs:
        blocks = [np.sort(rng.permutation(shape.inputs // block)[: live // block]) for _ in range(batch)]
        index = np.stack([(own[:, None] * block + np.arange(block)).ravel() for own in blocks])
    if shape.depthwise:
        weight, bias = (numpy_helper.to_array(constant) for constant in conv(shape)[0])
        native = open_session(reference.depthwise_model(weight, bias), options)
        return bound_run(native, {"X": x, "I": index}), shape.inputs / live
    winners = chosen(shape.outputs, density, block)
    layer = reference.make_layer(
        rng,
        channels=shape.inputs,
        outputs=shape.outputs,
        kernel=(shape.kernel, shape.kernel),
        winners=winners,
        strides=(shape.stride, shape.stride),
        winner_block=block,
    )
    for name in halves:
        layer.constants[name] = layer.constants[name].astype(np.float16)
    if in_bytes:
        layer, _ = reference.in_bytes(layer)
    native = open_session(reference.fbs_model(layer), options)
    saved = shape.inputs * shape.outputs / (live * winners)
    return bound_run(native, {"X": x, "I": index}), saved


def compare(dense, native, threads, seconds):
    """Milliseconds of the dense layer, and how many times as fast the native one is."""
    return (run_by_run if threads == 1 else round_by_round)(dense, native, seconds)


def run_by_run(dense, native, seconds):
    times = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 20:
        for run, taken in zip((dense, native), times, strict=True):
            run()
            start = time.thread_time()
            run()
            taken.append(time.thread_time() - start)
    dense_s, native_s = (float(np.quantile(taken, 0.05)) for taken in times)
    return 1e3 * dense_s, dense_s / native_s


def round_by_round(dense, native, seconds):
    times = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for run, medians in zip((dense, native), times, strict=True):
            time.sleep(PAUSE_S)
            for _ in range(3):
                run()
            taken, round_end = [], time.perf_counter() + ROUND_S
            while time.perf_counter() < round_end or len(taken) < 5:
                start = time.perf_counter()
                run()
                taken.append(time.perf_counter() - start)
            medians.append(float(np.median(taken)))
    return 1e3 * float(np.median(times[0])), float(np.median(np.divide(*times)))


def numbers(text, kind):
    return [kind(word) for word in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", default="1.0,0.5,0.25")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--winner-block", type=int, default=1, help="channels that win or lose together")
    rounding = parser.add_mutually_exclusive_group()
    rounding.add_argument("--half", choices=("predictors", "weights"), help="of 16 bits; weights: predictors too")
    rounding.add_argument("--bytes", action="store_true", help="weights and predictors of 8 bits")
    parser.add_argument("--isa", default="", help="instruction set; the best one here by default")
    parser.add_argument("--seconds", type=float, default=1.0, help="per cell")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--pin", action="store_true", help="every thread to a processor of its own")
    parser.add_argument("--scaling", action="store_true", help="against the same layer on one thread")
    options = parser.parse_args()
    if options.pin:
        os.sched_setaffinity(0, {0})
    densities = numbers(options.densities, float)
    against = "one thread ms" if options.scaling else "dense ms"
    print(f"| layer | threads | batch | {against} | {' | '.join(f'{density:g}' for density in densities)} |")
    print("|---" * (4 + len(densities)) + "|")
    for shape in (shape for shape in SHAPES if options.only in shape.name()):
        for threads in numbers(options.threads, int):
            for batch in numbers(options.batches, int):
                cells, times_ms = [], []
                for density in densities:
                    settings = {"batch": batch, "isa": options.isa, "block": options.winner_block, "pin": options.pin}
                    settings["halves"] = {None: "", "predictors": "A", "weights": "WA"}[options.half]
                    settings["in_bytes"] = options.bytes
                    run, saved = fbs_run(shape, density, threads=threads, **settings)
                    if options.scaling:
                        alone, _ = fbs_run(shape, density, threads=1, **settings)
                        time_ms, gain = round_by_round(alone, run, options.seconds)
                        times_ms.append(time_ms)
                        cells.append(f"{gain:.2f}×")
                        continue
                    dense = dense_run(shape, threads, batch, options.pin)
                    time_ms, gain = compare(dense, run, threads, options.seconds)
                    times_ms = [time_ms]
                    cells.append(f"{gain:.2f}× / {saved:.3g}× = {gain / saved:.2f}")
                shown = ", ".join(f"{time_ms:.3g}" for time_ms in times_ms)
                print(f"| {shape.name()} | {threads} | {batch} | {shown} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
