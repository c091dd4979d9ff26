"""Whole networks with FBS on the native kernels against the same networks dense in ONNX Runtime.

    python tests/benchmarks/native_networks.py --threads 1,4
    python tests/benchmarks/native_networks.py --networks cifarnet,torchvision:resnet18 --profile

Prints, for every network and number of threads: both median times, the speed-up (median over the rounds, lowest and
highest behind it), the multiplications saved, and their quotient (1.00 is all of the gain; predictors, selection,
packing, sums and changes of layout count against it). Weights are untrained: which channels win then hardly depends
on the image, how many does not. Each model runs in a process of its own, one at a time, rounds alternating.
`--profile` adds where the native run's time goes: by op, and the slowest nodes. Files are exported once, into
`--folder`, and used again.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from compressor.pipeline.export import export_network
from runtime.bench import benchmark, profile_nodes

NETWORKS = (
    "cifarnet",
    "torchvision:vgg16_bn",
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:mobilenet_v2",
)
SLOWEST = 10  # nodes shown of a profile


def exported(folder, network, density):
    """Path of the network's file; `density` None is the dense one."""
    kind = "dense" if density is None else f"fbs{round(100 * density)}"
    path = folder / f"{network.rpartition(':')[2]}.{kind}.onnx"
    if not path.exists():
        method = None if density is None else "fbs"
        export_network(network, output=path, method=method, density=density, untrained=True)
    return path


def show_profile(path, *, threads, isa):
    nodes = profile_nodes(path, threads=threads, isa=isa)
    by_op = Counter()
    for node in nodes:
        by_op[node.op] += node.median_us
    total = sum(by_op.values())
    print(f"  by op: {', '.join(f'{op} {us / total:.1%}' for op, us in by_op.most_common())}")
    for node in sorted(nodes, key=lambda node: -node.median_us)[:SLOWEST]:
        print(f"  {node.name:32} {node.op:12} {node.median_us:9.0f} us {node.share:6.1%}")


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
    parser.add_argument("--profile", action="store_true", help="show where the native run's time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print("network                  threads  dense ms  native ms  speed-up               MACs  quotient")
        for network in options.networks.split(","):
            files = [exported(folder, network, density) for density in (None, options.density)]
            results = benchmark(
                files,
                threads=[int(number) for number in options.threads.split(",")],
                batch=options.batch,
                runs=3,
                rounds=options.rounds,
                min_time_s=options.min_time,
                isa=options.isa,
            )
            for dense, native in zip(results[::2], results[1::2], strict=True):
                gain, saved = native.speedup_to_first, dense.macs / native.macs
                spread = f"{gain.median:.2f}x ({gain.min:.2f}-{gain.max:.2f})"
                print(
                    f"{network:24} {native.threads:7} {dense.latency_ms.p50:9.2f} {native.latency_ms.p50:10.2f}  "
                    f"{spread:20} {saved:5.2f}x {gain.median / saved:9.2f}",
                    flush=True,
                )
                if options.profile:
                    show_profile(files[1], threads=native.threads, isa=options.isa)


if __name__ == "__main__":
    main()
