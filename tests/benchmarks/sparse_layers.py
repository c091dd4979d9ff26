"""One strided layer as SparseConv on the native kernels against ONNX Runtime's dense convolution, shape by shape.

    taskset -c 3 python tests/benchmarks/sparse_layers.py

Every source map keeps each second position of its flattened kernel from a random offset on, so about half of the rows
of the lowered feature map are absent. Prints both times, the speed-up and how many times fewer rows there are (1.00 of
the quotient is all of the gain). The two sessions take turns run by run, so that a machine shared with others disturbs
both alike; a time is the 5 % quantile of its runs, the second of each pair.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime" / "native"))
sys.path.insert(0, str(Path(__file__).parent))
import native_reference as reference
from native_layers import Shape, compare, dense_run
from sparse_reference import make_sparse, sparse_model, strided_mask


def measure(channels, outputs, plane, kernel, *, stride=2, threads=1, isa="", seconds=1.0):
    """Milliseconds of the dense layer and of the sparse one, and rows over live rows."""
    rng = np.random.default_rng(0)
    mask = strided_mask(rng, channels, (kernel, kernel), stride)
    layer = make_sparse(rng, channels=channels, outputs=outputs, kernel=(kernel, kernel), mask=mask, lower=0.0)
    native = reference.open_session(sparse_model(layer, shape=(1, channels, plane, plane)), isa, threads)
    dense = dense_run(Shape(channels, outputs, plane, kernel), threads, 1)
    image = {"X": rng.normal(size=(1, channels, plane, plane)).astype(np.float32)}
    dense_ms, gain = compare(dense, lambda: native.run(None, image), threads, seconds)
    return dense_ms, dense_ms / gain, mask.size / mask.sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", default="64,128,256", help="input and output channels")
    parser.add_argument("--outputs", type=int, default=0, help="output channels, where not as many")
    parser.add_argument("--planes", default="32,28,14")
    parser.add_argument("--kernels", default="3,5")
    parser.add_argument("--stride", type=int, default=2, help="of the positions that stay")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", default="", help="instruction set; the best one here by default")
    parser.add_argument("--seconds", type=float, default=1.0, help="per shape")
    options = parser.parse_args()
    print("layer                    dense ms  sparse ms  speed-up   rows  quotient")
    for kernel in map(int, options.kernels.split(",")):
        for channels in map(int, options.channels.split(",")):
            for plane in map(int, options.planes.split(",")):
                outputs = options.outputs or channels
                dense_ms, sparse_ms, saved = measure(
                    channels,
                    outputs,
                    plane,
                    kernel,
                    stride=options.stride,
                    threads=options.threads,
                    isa=options.isa,
                    seconds=options.seconds,
                )
                gain = dense_ms / sparse_ms
                name = f"{kernel}x{kernel} {channels}->{outputs} @{plane}"
                print(
                    f"{name:24} {dense_ms:8.3f} {sparse_ms:10.3f} {gain:8.2f}x {saved:5.2f}x {gain / saved:9.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
