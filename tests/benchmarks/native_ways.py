"""Is the way that a layer chooses the faster one? Every FBS layer all ways, beside its own choice.

    taskset -c 3 python tests/benchmarks/native_ways.py

`packed` squeezes the winners' weights together first, `winograd` transforms them as well and multiplies less (3x3
kernels of stride 1; elsewhere the layer's own choice), `all` computes every output from the weights as they lie and
keeps the winners. The sessions take turns run by run on one thread; a time is the 10 % quantile of its runs in
time of the processor, so that others on the same core do not count.
"""

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
)  # fmt: skip
WAYS = ("packed", "winograd", "all", "")
SECONDS = 0.8


def times(shape, density):
    """Microseconds of each of WAYS."""
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
    print("layer                    density  packed us  winograd us   all us  chosen us  chosen/fastest")
    for shape in SHAPES:
        inputs, outputs, plane, kernel, stride = shape
        for density in (0.75, 0.5, 0.25):
            *ways, chosen = times(shape, density)
            name = f"{inputs}->{outputs} @{plane} {kernel}x{kernel} s{stride}"
            print(
                f"{name:25} {density:6.2f} {ways[0]:10.1f} {ways[1]:12.1f} {ways[2]:8.1f} {chosen:10.1f} "
                f"{chosen / min(ways):15.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
