"""One FBS layer on the native kernels against ONNX Runtime's dense convolution, shape by shape.

    taskset -c 3 python tests/benchmarks/native_layers.py --densities 1.0,0.5 --threads 1

Prints, for every shape and density: both times, the speed-up, the multiplications saved, and their quotient (1.00 is
all of the gain; the predictor's work counts against it). The two sessions take turns run by run, so that a machine
shared with others disturbs both alike; a time is the 5 % quantile of its runs, the second of each pair, so that what
the other session left in the caches is gone.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime" / "native"))
import native_reference as reference

# in, out, plane, kernel, stride
SHAPES = (
    (64, 64, 56, 3, 1),
    (128, 128, 28, 3, 1),
    (256, 256, 14, 3, 1),
    (512, 512, 7, 3, 1),
    (512, 512, 28, 3, 1),
    (256, 64, 56, 1, 1),
    (512, 2048, 7, 1, 1),
    (1024, 256, 14, 1, 1),
    (3, 64, 224, 7, 2),
    (3, 64, 32, 3, 1),
    (64, 128, 30, 3, 2),
    (128, 128, 15, 3, 1),
    (128, 192, 15, 3, 2),
    (192, 192, 8, 3, 1),
)


def dense_session(rng, inputs, outputs, plane, kernel, stride, threads):
    weight = (rng.normal(size=(outputs, inputs, kernel, kernel)) / (inputs * kernel)).astype(np.float32)
    nodes = [
        helper.make_node(
            "Conv", ["X", "W", "B"], ["C"], pads=[kernel // 2] * 4, strides=[stride] * 2, kernel_shape=[kernel] * 2
        ),
        helper.make_node("Relu", ["C"], ["Y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, inputs, plane, plane])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(np.zeros(outputs, np.float32), "B")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def alternate(first, second, seconds):
    """5 % quantiles of both, in milliseconds."""
    times = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 30:
        for run, taken in zip((first, second), times, strict=True):
            run()
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return [1e3 * float(np.quantile(taken, 0.05)) for taken in times]


def measure(shape, density, *, threads, isa, seconds):
    inputs, outputs, plane, kernel, stride = shape
    rng = np.random.default_rng(0)
    live = inputs if inputs <= 4 else max(1, round(inputs * density))  # images keep their channels
    winners = max(1, round(outputs * density))
    layer = reference.make_layer(
        rng, channels=inputs, outputs=outputs, kernel=(kernel, kernel), winners=winners, strides=(stride, stride)
    )
    native = reference.open_session(reference.fbs_model(layer), isa, threads)
    dense = dense_session(rng, *shape, threads)
    x, index = reference.make_input(rng, live=live, channels=inputs, size=(plane, plane))
    image = rng.normal(size=(1, inputs, plane, plane)).astype(np.float32)
    dense_ms, native_ms = alternate(
        lambda: dense.run(None, {"X": image}), lambda: native.run(None, {"X": x, "I": index}), seconds
    )
    return dense_ms, native_ms, inputs * outputs / (live * winners)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", default="1.0,0.5,0.25")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", default="", help="instruction set; the best one here by default")
    parser.add_argument("--seconds", type=float, default=1.0, help="per shape and density")
    options = parser.parse_args()
    print("layer                     density  dense ms  native ms  speed-up   MACs  quotient")
    for shape in SHAPES:
        inputs, outputs, plane, kernel, stride = shape
        name = f"{inputs}->{outputs} @{plane} {kernel}x{kernel} s{stride}"
        for density in map(float, options.densities.split(",")):
            dense_ms, native_ms, saved = measure(
                shape, density, threads=options.threads, isa=options.isa, seconds=options.seconds
            )
            gain = dense_ms / native_ms
            print(
                f"{name:26} {density:6.2f} {dense_ms:9.3f} {native_ms:10.3f} {gain:8.2f}x {saved:5.1f}x"
                f" {gain / saved:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
