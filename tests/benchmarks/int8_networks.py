"""Whole networks in float and int8, dense in ONNX Runtime and with FBS on the native kernels, in one alternating run.

    python tests/benchmarks/int8_networks.py --networks cifarnet,torchvision:resnet18 --threads 1,4

Prints, for every network and number of threads, the median time of each of the four files and its speed-up over the
first (median over the rounds, lowest and highest behind it), and how far FBS in int8 is ahead of dense in int8, beside
the multiplications saved. Weights are untrained and ranges of random images: neither changes how much is computed. Each
model runs in a process of its own, one at a time, rounds alternating. Files are exported once, into `--folder`, and
used again.
"""

import argparse
import tempfile
from pathlib import Path

from native_networks import calibration, exported, exported_int8

from compressor.methods.fbs import FBS
from compressor.pipeline.source import open_source
from exporters import export
from runtime.bench import benchmark

NETWORKS = ("cifarnet", "torchvision:vgg16_bn", "torchvision:resnet18")


def exported_fbs_int8(folder, network, density):
    """Path of the int8 file of the network with FBS."""
    path = folder / f"{network.rpartition(':')[2]}.fbs{round(100 * density)}.int8.onnx"
    if not path.exists():
        source = open_source(network, untrained=True)
        model = FBS(density=density).attach(source.model, source.example()).eval()
        for note in export(model, source.example(), path, int8=calibration(source.size)).notes:
            print(f"{network}: {note}")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--min-time", type=float, default=0.4, help="seconds of a round, at least")
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for network in options.networks.split(","):
            files = [exported(folder, network, None), exported_int8(folder, network)]
            files += [exported(folder, network, options.density), exported_fbs_int8(folder, network, options.density)]
            results = benchmark(
                files,
                threads=[int(number) for number in options.threads.split(",")],
                runs=3,
                rounds=options.rounds,
                min_time_s=options.min_time,
            )
            for start in range(0, len(results), len(files)):
                group = results[start : start + len(files)]
                print(f"{network}, {group[0].threads} threads:", end="")
                for name, result in zip(("dense", "dense int8", "FBS", "FBS int8"), group, strict=True):
                    gain = result.speedup_to_first
                    print(f" {name} {result.latency_ms.p50:.2f} ms", end="")
                    print(f" {gain.median:.2f}x ({gain.min:.2f}-{gain.max:.2f});" if gain else ";", end="")
                ahead = group[3].speedup_to_first.median / group[1].speedup_to_first.median
                print(f" int8 {ahead:.2f}x by FBS, {group[0].macs / group[3].macs:.2f}x MACs", flush=True)


if __name__ == "__main__":
    main()
