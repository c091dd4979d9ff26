"""Whole networks with FBS on the native kernels against the same networks dense in ONNX Runtime.

    python tests/benchmarks/native_networks.py --threads 1,4
    python tests/benchmarks/native_networks.py --networks cifarnet,torchvision:resnet18 --profile

Prints, for every network and number of threads: both median times, the speed-up (median over the rounds, lowest and
highest behind it), the multiplications saved, their quotient (1.00 is all of the gain; predictors, selection, packing,
sums and changes of layout count against it), and the highest resident memory above that of a session without weights,
in MB, dense and native, with their quotient. With `--int8` also the dense network in ONNX Runtime's int8 (Q/DQ, ranges
of random images): its median time and speed-up over dense float. Weights are untrained: which channels win then hardly
depends on the image, how many does not. Each model runs in a process of its own, one at a time, rounds alternating.
`--profile` adds where the native run's time goes: by op, and the slowest nodes. Files are exported once, into
`--folder`, and used again. `--pin` is for a machine with other work: both networks in one process, every thread on a
processor of its own, in turns as in native_layers.py; times are then medians over those turns.
"""

import argparse
import os
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from native_layers import open_session, options_for, round_by_round
from onnx import TensorProto, helper

from compressor.pipeline.export import Shipping, export_network
from compressor.pipeline.source import open_source
from exporters import export
from exporters.int8 import Int8Settings
from runtime.bench import benchmark, profile_nodes

NETWORKS = (
    "cifarnet",
    "torchvision:vgg16_bn",
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:mobilenet_v2",
)
CALIBRATION_IMAGES = 8
SLOWEST = 10  # nodes shown of a profile


def exported(folder, network, density, batch=1, *, half=None, in_bytes=False):
    """Path of the network's file for that many images a run; `density` None is the dense one.

    `half`: predictors or weights, of 16 bits. `in_bytes`: both of 8 bits.
    """
    form = "bytes" if in_bytes else half
    kind = "dense" if density is None else f"fbs{round(100 * density)}" + (f".{form}" if form else "")
    kind += f".batch{batch}" if batch > 1 else ""
    path = folder / f"{network.rpartition(':')[2]}.{kind}.onnx"
    if not path.exists():
        method = None if density is None else "fbs"
        option = "byte_weights" if in_bytes else f"half_{half}"
        shipping = Shipping(**({option: True} if form and method is not None else {}))
        export_network(
            network, output=path, method=method, density=density, batch=batch, untrained=True, shipping=shipping
        )
    return path


def calibration(size):
    """Ranges of random images."""
    images = np.random.default_rng(0).normal(size=(CALIBRATION_IMAGES, *size)).astype(np.float32)
    return Int8Settings("min-max", images)


def exported_int8(folder, network):
    """Path of the dense network's int8 file."""
    path = folder / f"{network.rpartition(':')[2]}.int8.onnx"
    if not path.exists():
        source = open_source(network, untrained=True)
        export(source.model, source.example(), path, int8=calibration(source.size))
    return path


def empty(folder):
    """Path of a file that computes nothing."""
    path = folder / "empty.onnx"
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "empty", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def memory(result):
    """Highest resident memory above the process before the session, in MB."""
    return (result.peak_rss_bytes - result.rss_before_session_bytes) / 1e6


def show_profile(path, *, threads, isa):
    nodes = profile_nodes(path, threads=threads, isa=isa)
    by_op = Counter()
    for node in nodes:
        by_op[node.op] += node.median_us
    total = sum(by_op.values())
    print(f"  by op: {', '.join(f'{op} {us / total:.1%}' for op, us in by_op.most_common())}")
    for node in sorted(nodes, key=lambda node: -node.median_us)[:SLOWEST]:
        print(f"  {node.name:32} {node.op:12} {node.median_us:9.0f} us {node.share:6.1%}")


def show_pinned(network, files, *, threads, batch, isa, seconds):
    """One line: both times, the speed-up, multiplications saved and their quotient."""
    image, runs, macs = None, [], []
    os.sched_setaffinity(0, {0})
    for path, native in zip(files, (False, True), strict=True):
        session = open_session(str(path), options_for(threads, pin=True, native=native, isa=isa))
        (entry,) = session.get_inputs()
        if image is None:
            image = np.random.default_rng(0).normal(size=(batch, *entry.shape[1:])).astype(np.float32)
        runs.append(partial(session.run, None, {entry.name: image}))
        macs.append(int(session.get_modelmeta().custom_metadata_map["compress.macs"]))
    dense_ms, gain = round_by_round(*runs, seconds)
    saved = macs[0] / macs[1]
    print(
        f"{network:24} {threads:7} {dense_ms:9.2f} {dense_ms / gain:10.2f}  {gain:.2f}x {saved:19.2f}x "
        f"{gain / saved:9.2f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--isa", help="instruction set; the best one here by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--min-time", type=float, default=0.4, help="seconds of a round, at least")
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one by default")
    parser.add_argument("--int8", action="store_true", help="also the dense network in int8")
    rounding = parser.add_mutually_exclusive_group()
    rounding.add_argument("--half", choices=("predictors", "weights"), help="of 16 bits; weights: predictors too")
    rounding.add_argument("--bytes", action="store_true", help="weights and predictors of 8 bits")
    parser.add_argument("--pin", action="store_true", help="every thread to a processor of its own")
    parser.add_argument("--profile", action="store_true", help="show where the native run's time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        header = "network                  threads  dense ms  native ms  speed-up               MACs  quotient"
        print(header + "  memory MB" + "             int8 ms" * options.int8)
        (nothing,) = benchmark([empty(folder)], runs=3, rounds=1, min_time_s=0.0)
        for network in options.networks.split(","):
            files = [exported(folder, network, None, options.batch)]
            forms = {"half": options.half, "in_bytes": options.bytes}
            files += [exported(folder, network, options.density, options.batch, **forms)]
            files += [exported_int8(folder, network)] if options.int8 else []
            threads = [int(number) for number in options.threads.split(",")]
            if options.pin:
                for number in threads:
                    seconds = options.rounds * options.min_time
                    show_pinned(
                        network,
                        files[:2],
                        threads=number,
                        batch=options.batch,
                        isa=options.isa or "",
                        seconds=seconds,
                    )
                continue
            results = benchmark(
                files,
                threads=threads,
                batch=options.batch,
                runs=3,
                rounds=options.rounds,
                min_time_s=options.min_time,
                isa=options.isa,
            )
            for start in range(0, len(results), len(files)):
                dense, native, *int8 = results[start : start + len(files)]
                gain, saved = native.speedup_to_first, dense.macs / native.macs
                megabytes = [memory(result) - memory(nothing) for result in (dense, native)]
                held = f"{megabytes[0]:.1f} -> {megabytes[1]:.1f} ({megabytes[1] / megabytes[0]:.2f}x)"
                spread = f"{gain.median:.2f}x ({gain.min:.2f}-{gain.max:.2f})"
                print(
                    f"{network:24} {native.threads:7} {dense.latency_ms.p50:9.2f} {native.latency_ms.p50:10.2f}  "
                    f"{spread:20} {saved:5.2f}x {gain.median / saved:9.2f} {held}"
                    + "".join(f" {q.latency_ms.p50:9.2f} ({q.speedup_to_first.median:.2f}x)" for q in int8),
                    flush=True,
                )
                if options.profile:
                    show_profile(files[1], threads=native.threads, isa=options.isa)


if __name__ == "__main__":
    main()
