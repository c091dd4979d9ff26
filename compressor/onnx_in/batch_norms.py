"""Batch norms put back behind convolutions that an exporter has folded them into.

    conv(x)  =  γ · (conv'(x) − μ) / √(σ² + ε) + β        conv' is conv without its bias b
    μ, σ²  mean and variance of conv'(x) on images        γ = √(σ² + ε)        β = μ + b

The network computes what it did. Methods that read or train batch-norm scales can work on it, a cut can be followed by
measuring μ and σ² anew, and fine-tuning is as stable as of a network that never left torch. Exporting folds them again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compressor.onnx_in.program import Program, Step, all_steps

__all__ = ["Moments", "batch_norm_state", "convolutions_without", "measure", "with_batch_norms"]

_EPS = 1e-5


@dataclass(frozen=True)
class Moments:
    """What a convolution without its bias puts out on images.

    Attributes:
        mean: (C,).
        variance: (C,), over images and places.
    """

    mean: Tensor
    variance: Tensor


def convolutions_without(program: Program) -> tuple[str, ...]:
    """Returns paths of the two-dimensional convolutions whose output no batch norm alone reads."""
    readers: dict[str, list[Step]] = {}
    for step in all_steps(program):
        for name in step.values:
            readers.setdefault(name, []).append(step)

    def normalised(step: Step) -> bool:
        after = readers.get(step.outputs[0], [])
        return [reader.kind for reader in after] == ["batch_norm2d"]

    return tuple(step.name for step in all_steps(program) if step.kind == "conv2d" and not normalised(step))


def with_batch_norms(program: Program, convolutions: Iterable[str]) -> Program:
    """Returns the program with a batch norm `NAME_bn` behind each convolution, whose bias goes into it.

    Args:
        program: As it was read.
        convolutions: Paths, as `convolutions_without` returns them.
    """
    chosen, steps = set(convolutions), list[Step]()
    for step in program.steps:
        if step.body is not None:
            steps.append(replace(step, body=with_batch_norms(step.body, chosen)))
        elif step.name in chosen:
            (output,) = step.outputs
            between = f"{output}:normalise"
            settings = {"num_features": step.settings["out_channels"], "eps": _EPS}
            steps.append(replace(step, outputs=(between,), settings={**step.settings, "bias": False}))
            steps.append(Step("batch_norm2d", (between,), (output,), settings, f"{step.name}_bn"))
        else:
            steps.append(step)
    return replace(program, steps=tuple(steps))


@torch.no_grad()
def measure(model: nn.Module, convolutions: Iterable[str], batches: Iterable[Tensor]) -> dict[str, Moments]:
    """Returns the moments of each convolution's output, on the model's own device, its mode left alone.

    Args:
        model: In evaluation mode.
        convolutions: Paths of `nn.Conv2d` modules.
        batches: (N, C, H, W) each, at least one.
    """
    sums = {path: torch.zeros(0) for path in convolutions}

    def hook(path: str) -> Callable[[nn.Module, object, Tensor], None]:
        def add(module: nn.Module, _inputs: object, output: Tensor) -> None:
            assert isinstance(module, nn.Conv2d)
            values = output.double()
            if module.bias is not None:
                values = values - module.bias.double().view(-1, 1, 1)
            flat = values.transpose(0, 1).flatten(1)
            count = flat.new_full((1, len(flat)), flat.shape[1])
            here = torch.cat([count, flat.sum(1)[None], flat.square().sum(1)[None]])
            sums[path] = here if not len(sums[path]) else sums[path] + here

        return add

    handles = [model.get_submodule(path).register_forward_hook(hook(path)) for path in sums]
    try:
        for images in batches:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    moments = {}
    for path, (count, total, squares) in sums.items():
        mean = total / count
        moments[path] = Moments(mean.float(), (squares / count - mean.square()).clamp_min(0).float())
    return moments


def batch_norm_state(state: Mapping[str, Tensor], moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """Returns the state dict that fits `with_batch_norms`, so that the network computes what it did.

    Args:
        state: Of the network before.
        moments: Of each convolution that gets a batch norm.
    """
    result = dict(state)
    for path, about in moments.items():
        bias = result.pop(f"{path}.bias", None)
        result |= {
            f"{path}_bn.weight": (about.variance + _EPS).sqrt(),
            f"{path}_bn.bias": about.mean if bias is None else about.mean + bias,
            f"{path}_bn.running_mean": about.mean,
            f"{path}_bn.running_var": about.variance,
            f"{path}_bn.num_batches_tracked": torch.tensor(0),
        }
    return {name: value.detach().clone() for name, value in result.items()}
