"""Is the way that a layer chooses the faster one? Every FBS layer all ways, beside its own choice.

    taskset -c 3 python tests/benchmarks/native_ways.py
    taskset -c 3 python tests/benchmarks/native_ways.py --bytes   # or --half

`packed` squeezes the winners' weights together first, `winograd` transforms them as well and multiplies less (3x3
kernels of stride 1), `matrix` multiplies matrices of bfloat16, of floats three each (processors that have AMX), `all`
computes every output from the weights as they lie and keeps the winners (floats). A way that a layer does not have
is its own choice. The sessions take turns run by run on one thread; a time is the 10 % quantile of its runs in time of
the processor, so that others on the same core do not count.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime" / "native"))
import native_reference as reference

# in, out, plane, kernel, stride: where pixels are few, so that all ways are in question
SHAPES = (
    (64, 64, 8, 3, 1), (128, 128, 4, 3, 1), (192, 192, 4, 3, 1), (192, 192, 8, 3, 1), (256, 256, 2, 3, 1),
    (256, 256, 4, 3, 1), (512, 512, 2, 3, 1), (512, 512, 4, 3, 1), (512, 512, 7, 3, 1), (512, 512, 14, 3, 1),
    (512, 2048, 7, 1, 1), (2048, 512, 7, 1, 1), (1024, 256, 7, 1, 1), (256, 64, 14, 1, 1), (64, 64, 1, 1, 1),
    (64, 64, 2, 3, 1), (512, 512, 1, 3, 1), (128, 192, 15, 3, 2), (32, 32, 16, 3, 1), (64, 64, 56, 3, 1),
    (128, 128, 14, 3, 1), (256, 256, 14, 3, 1), (64, 64, 14, 3, 1), (16, 16, 32, 3, 1), (3, 64, 32, 3, 1),
    (32, 16, 112, 1, 1), (96, 24, 56, 1, 1), (144, 32, 28, 1, 1), (576, 96, 14, 1, 1), (960, 160, 7, 1, 1),
    (3, 64, 224, 7, 2), (64, 256, 56, 1, 1), (256, 1024, 14, 1, 1), (320, 1280, 7, 1, 1),
)  # fmt: skip
WAYS = ("packed", "winograd", "matrix", "all", "")
SECONDS = 0.8


def times(shape, density, rounding):
    """Microseconds of each of WAYS; `rounding` of the weights: half, bytes or none."""
    inputs, outputs, plane, kernel, stride = shape
    rng = np.random.default_rng(0)
    layer = reference.make_layer(
        rng,
        channels=inputs,
        outputs=outputs,
        kernel=(kernel, kernel),
        winners=round(outputs * density),
        strides=(stride, stride),
    )
    if rounding == "half":
        for name in "WA":
            layer.constants[name] = layer.constants[name].astype(np.float16)
    elif rounding == "bytes":
        layer, _ = reference.in_bytes(layer)
    sessions = [reference.open_session(reference.fbs_model(layer), way=way) for way in WAYS]
    x, index = reference.make_input(rng, live=round(inputs * density), channels=inputs, size=(plane, plane))
    taken = [[] for _ in WAYS]
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(taken[0]) < 10:
        for session, mine in zip(sessions, taken, strict=True):
            session.run(None, {"X": x, "I": index})
            start = time.thread_time()
            session.run(None, {"X": x, "I": index})
            mine.append(time.thread_time() - start)
    return [1e6 * float(np.quantile(mine, 0.1)) for mine in taken]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounding = parser.add_mutually_exclusive_group()
    rounding.add_argument("--half", action="store_const", const="half", dest="rounding", help="weights of 16 bits")
    rounding.add_argument("--bytes", action="store_const", const="bytes", dest="rounding", help="weights of 8 bits")
    options = parser.parse_args()
    columns = "".join(f"{way or 'chosen':>9} us" for way in WAYS)
    print(f"{'layer':25} density {columns}  chosen/fastest")
    for shape in SHAPES:
        inputs, outputs, plane, kernel, stride = shape
        for density in (0.75, 0.5, 0.25):
            *ways, chosen = times(shape, density, options.rounding)
            name = f"{inputs}->{outputs} @{plane} {kernel}x{kernel} s{stride}"
            columns = "".join(f"{way:12.1f}" for way in (*ways, chosen))
            print(f"{name:25} {density:7.2f} {columns} {chosen / min(ways):15.2f}", flush=True)


if __name__ == "__main__":
    main()
