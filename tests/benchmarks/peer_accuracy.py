"""torch-pruning's group-L1 beside ours: the same network, the same MACs, the same fine-tuning.

    python tests/benchmarks/peer_accuracy.py dense.pt --macs 0.3 --data cifar10:cifar10.npz \\
        --recipe gate-decorator-cheap --epochs 12 --distill dense.pt --onnx peer.onnx

torch-pruning removes channels over the whole network by the L1 norm of each group, in 100 small steps (its own
benchmark takes 400), until the MACs are met. Batch norm is then measured anew, and the network is fine-tuned by the
loop, the settings and the teacher that `compress prune` uses. The epoch is chosen on the validation split; test is
evaluated once. With `--resume` a fine-tuning that was stopped goes on behind its last whole epoch.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch_pruning
from torch import Tensor, nn

from compressor import checkpoint, recipes
from compressor.costs.macs import count_macs
from compressor.data import Dataset, Loader, load
from compressor.pipeline.teacher import Distillation, load_teacher
from compressor.shrink import reestimate_batch_norm
from compressor.train import evaluate, progress_on, resume_path, train
from exporters import export

_STEPS = 100
_MAX_CUT = 0.9  # of one layer; torch-pruning would otherwise cut some to nothing and fail


def group_l1(model: nn.Module, example: Tensor, macs_share: float) -> nn.Module:
    """Returns `model`, which is changed, cut to at most `macs_share` of its MACs."""
    target = count_macs(model, example).macs * macs_share
    classes = model(example).shape[1]
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        example,
        torch_pruning.importance.GroupMagnitudeImportance(p=1),
        global_pruning=True,
        iterative_steps=_STEPS,
        pruning_ratio=1.0,
        max_pruning_ratio=_MAX_CUT,
        ignored_layers=last,
    )
    for _ in range(_STEPS):
        pruner.step()
        if count_macs(model, example).macs <= target:
            return model
    raise SystemExit(f"torch-pruning ended above {target / 1e6:.1f} M MACs")


def _example(dataset: Dataset) -> Tensor:
    images, _ = next(iter(dataset.batches("train", Loader(2))))
    return images


def main() -> None:
    """Reads the command line, cuts, fine-tunes, and says how good the network is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--macs", type=float, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="gate-decorator-cheap")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--distill", type=Path)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()

    saved = checkpoint.load(arguments.model)
    dataset = load(arguments.data, seed=int(saved.record.get("split_seed", 0)))
    model, example = checkpoint.rebuild(saved), _example(dataset)
    before, val_before = count_macs(model, example), evaluate(model, dataset, "val").top1
    teacher = load_teacher(Distillation(arguments.distill), saved) if arguments.distill else None

    for parameter in model.parameters():
        parameter.requires_grad_(True)
    cut = group_l1(model.eval(), example, arguments.macs)
    batches = dataset.batches("train", Loader(256, shuffle=True))
    cut = reestimate_batch_norm(cut, batches, num_batches=50)
    cost, val_cut = count_macs(cut, example), evaluate(cut, dataset, "val").top1
    print(
        f"cut: {before.macs / 1e6:.2f} -> {cost.macs / 1e6:.2f} M MACs, val {val_before:.2%} -> {val_cut:.2%}",
        flush=True,
    )
    settings = replace(
        recipes.get(arguments.recipe).train_settings(), epochs=arguments.epochs, precision=arguments.precision
    )
    kept = {"checkpoint_path": arguments.onnx, "resume": arguments.resume}
    record = train(cut, dataset, settings=settings, teacher=teacher, progress=progress_on(), **kept)
    test = evaluate(cut, dataset, "test").top1
    export(cut.cpu().eval(), torch.zeros_like(example[:1]), arguments.onnx)
    resume_path(arguments.onnx).unlink()
    print(f"val {record.val_top1:.2%}, test {test:.2%}, {cost.parameters} parameters; {arguments.onnx}")


if __name__ == "__main__":
    main()
