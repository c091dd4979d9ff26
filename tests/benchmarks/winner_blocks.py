"""What choosing winners in blocks gives up, before any training: with the channels as they lie, and put in order.

    python tests/benchmarks/winner_blocks.py dense.pt --data cifar10:cifar10.npz --block 16 --density 0.5

For each convolution that FBS would take: of the activity that the best half of the channels hold in an image, the share
that the best blocks of as many channels hold, mean over validation images. A channel's activity is its mean after
batch norm and ReLU, divided by its spread over training images; the order is found on training images.
"""

import argparse
import math
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compressor import checkpoint
from compressor.data import Loader, load
from compressor.graph.pairs import conv_bn_pairs
from compressor.methods.fbs_blocks import activities, block_order

BATCH = 50


def captured(activity: npt.NDArray[np.float64], block: int, winners: int) -> float:
    """Returns what the best blocks hold per channel, as a share of what the best channels do; (images, K)."""
    whole = activity.shape[1] // block * block
    sums = activity[:, :whole].reshape(len(activity), -1, block).sum(axis=2)
    chosen = math.ceil(winners / block)
    in_blocks = np.sort(sums, axis=1)[:, -chosen:].sum(axis=1) / (chosen * block)
    alone = np.sort(activity, axis=1)[:, -winners:].sum(axis=1) / winners
    return float((in_blocks / alone).mean())


def main() -> None:
    """Reads the command line and prints one line per layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--density", type=float, default=0.5)
    arguments = parser.parse_args()
    saved = checkpoint.load(arguments.model)
    dataset = load(arguments.data, seed=int(saved.record.get("split_seed", 0)))
    model = checkpoint.rebuild(saved).eval()
    train = [images for images, _ in islice(dataset.batches("train", Loader(BATCH, shuffle=True)), 40)]
    val = [images for images, _ in islice(dataset.batches("val", Loader(BATCH)), 20)]
    pairs = conv_bn_pairs(model, val[0])[0]
    learned, seen = activities(model, pairs, train), activities(model, pairs, val)
    for name, activity in learned.items():
        scaled = seen[name] / np.maximum(activity.std(axis=0), 1e-12)
        winners = math.ceil(arguments.density * activity.shape[1])
        if activity.shape[1] > arguments.block:
            order = list(block_order(activity, arguments.block))
            shares = [captured(rows, arguments.block, winners) for rows in (scaled, scaled[:, order])]
            print(
                f"{name:24s} {activity.shape[1]:5d} channels   as they lie {shares[0]:.2f}   in order {shares[1]:.2f}"
            )


if __name__ == "__main__":
    main()
