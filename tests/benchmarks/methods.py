"""Every method on one network: the same data, the same fine-tuning, 0.5x and 0.25x of the MACs.

    python tests/benchmarks/methods.py dense.pt --data cifar10:cifar10.npz --epochs 10 --folder methods

Runs `compress prune`, `compress export` and `compress bench` as a user would. After the cut each method gets the same
epochs, batches, learning rate and (with `--distill`) teacher; what it trains before the cut is part of the method and
stands in the minutes. FBS has no cut: the epochs are those of its whole schedule, and its density is the one whose
MACs, counted on the attached network, come nearest to the budget. Epochs are chosen on validation images, test is
evaluated once. A network that lies in the folder already is not made again; of a run that was stopped, delete the
`.pt.resume`, or the minutes would miss a part. Prints one Markdown table.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from compressor import checkpoint
from compressor.costs.macs import count_macs
from compressor.methods.fbs import FBS
from compressor.pipeline.source import open_source
from runtime.bench import benchmark

METHODS: dict[str, list[str]] = {
    "l1": [],
    "gate-decorator": ["--recipe", "gate-decorator-cheap"],
    "rbp": ["--recipe", "rbp-cheap", "--set", "trunks=true"],  # as the others do
    "structured": ["--set", "particles=20", "--set", "images=1000"],  # of 50 and 2000: a fifth of the time
    "fbs": [],
}
SEARCHED = 24  # halvings of the interval in which the density lies: more than float32 tells apart


def fbs_density(dense: Path, share: float) -> float:
    """Returns the density at which FBS costs `share` of the dense network's MACs, to 0.01."""
    source = open_source(str(dense))
    example = source.example()
    target = share * count_macs(source.model, example).macs
    low, high = 0.01, 1.0
    for _ in range(SEARCHED):
        middle = (low + high) / 2
        fbs = FBS(density=middle).attach(open_source(str(dense)).model, example).eval()
        low, high = (low, middle) if count_macs(fbs, example).macs > target else (middle, high)
        if high - low < 0.01:
            break
    return round(low, 2)


def compress(*words: object) -> None:
    """Runs one command; a failure ends the benchmark."""
    command = [str(word) for word in words]
    print("compress", *command, flush=True)
    subprocess.run([Path(sys.executable).with_name("compress"), *command], check=True)


def pruned(method: str, share: float, arguments: argparse.Namespace) -> Path:
    """Returns the network a method makes, and beside it (`.json`) the minutes that took."""
    output: Path = arguments.folder / f"{method}_{share:g}.pt"
    if output.is_file():
        return output
    goal = ("--density", fbs_density(arguments.model, share)) if method == "fbs" else ("--budget", f"macs={share:g}x")
    words = ["prune", arguments.model, "--method", method, *METHODS[method], *goal, "--data", arguments.data]
    words += ["--epochs", arguments.epochs, "--batch-size", 128, "--lr", arguments.lr]
    words += ["--precision", arguments.precision]
    words += ["--distill", arguments.model] if arguments.distill else []
    start = time.monotonic()
    compress(*words, "-o", output)
    output.with_suffix(".json").write_text(json.dumps({"minutes": (time.monotonic() - start) / 60}))
    return output


def main() -> None:
    """Reads the command line, makes the networks, measures them in one run and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.04)
    parser.add_argument("--shares", default="0.5,0.25")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--distill", action="store_true")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--folder", type=Path, default=Path("methods"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)

    networks = [arguments.model]
    for share in map(float, arguments.shares.split(",")):
        networks += [pruned(method, share, arguments) for method in arguments.methods.split(",")]
    files = [arguments.folder / f"{network.stem}.onnx" for network in networks]
    for network, file in zip(networks, files, strict=True):
        if not file.is_file():
            data = ["--data", arguments.data] if network.stem.startswith("fbs") else []
            compress("export", network, *data, "--no-measure", "-o", file)
    results = benchmark(files, threads=(1,), rounds=11, min_time_s=0.3)

    print("| network | MACs | val | test (once) | minutes | speed-up, one thread | peak memory | file |")
    print("|---|---|---|---|---|---|---|---|")
    for network, result in zip(networks, results, strict=True):
        record, spent = checkpoint.load(network).record, network.with_suffix(".json")
        minutes = f"{json.loads(spent.read_text())['minutes']:.0f}" if spent.is_file() else ""
        assert result.speedup_to_first is not None
        gain = result.speedup_to_first
        cells = [network.stem.replace("_", " at "), f"{(result.macs or 0) / 1e6:.1f} M"]
        cells += [f"{record['val_top1']:.2%}", f"{record['test_top1']:.2%}", minutes]
        cells += [f"{gain.median:.2f}x ({gain.min:.2f}-{gain.max:.2f})", f"{result.peak_rss_bytes / 1e6:.1f} MB"]
        print("|", " | ".join([*cells, f"{result.file_bytes / 1e6:.2f} MB"]), "|")


if __name__ == "__main__":
    main()
