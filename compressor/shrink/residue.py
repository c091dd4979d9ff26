"""What is left of a residual block whose branch is cut to nothing.

    activation(shortcut(x) + branch(x))   with   branch(x) = c   becomes   activation(shortcut(x) + c)

c is the bias of the branch's last layer, put through the modules after it. Where the shortcut ends in a batch norm or
in a layer with a bias, c is added there and nothing is left of the branch; else c stays as the parameter `shift`.
"""

import copy

import torch
from torch import nn

from compressor.graph import Branch

__all__ = ["Residue", "remove_branch"]

_HOLDS_SHIFT = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd, nn.Linear)


class Residue(nn.Module):
    """`activation(shortcut(x) + shift)`.

    Attributes:
        shortcut: what the block's input goes through.
        shift: (C, 1, 1) constant of the removed branch; None where the shortcut has taken it in.
        activation: of the block.
    """

    shift: nn.Parameter | None

    def __init__(self, shortcut: nn.Module, shift: nn.Parameter | None, activation: nn.Module) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.register_parameter("shift", shift)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (N, C, H, W) for an input of the block."""
        x = self.shortcut(x)
        if self.shift is not None:
            x = x + self.shift
        result: torch.Tensor = self.activation(x)
        return result


def remove_branch(model: nn.Module, branch: Branch) -> None:
    """Replaces a block of `model` by its residue, in place; the trunk's channels are cut already."""
    shift = _constant(model, branch)
    shortcut = model.get_submodule(branch.shortcut) if branch.shortcut else nn.Identity()
    if branch.activation == "relu":
        activation: nn.Module = nn.ReLU()
    else:
        activation = model.get_submodule(branch.activation) if branch.activation else nn.Identity()
    holder = _last_leaf(shortcut)
    kept: nn.Parameter | None = nn.Parameter(shift)
    if isinstance(holder, _HOLDS_SHIFT) and isinstance(holder.bias, torch.Tensor):
        with torch.no_grad():
            holder.bias += shift.flatten()
        kept = None
    residue = Residue(shortcut, kept, activation)
    residue.train(model.get_submodule(branch.name).training)
    model.set_submodule(branch.name, residue)


def _constant(model: nn.Module, branch: Branch) -> torch.Tensor:
    """Returns what a branch without channels puts out: (C, 1, 1), or (C,) after a linear layer."""
    last = model.get_submodule(branch.last)
    assert isinstance(last, nn.modules.conv._ConvNd | nn.Linear)
    spatial = last.weight.dim() - 2
    bias = last.bias if last.bias is not None else last.weight.new_zeros(last.weight.shape[0])
    value = bias.detach().reshape(1, -1, *(1,) * spatial)
    with torch.no_grad():
        for path in branch.after:
            value = copy.deepcopy(model.get_submodule(path)).eval()(value)
    return value[0].detach().clone()


def _last_leaf(module: nn.Module) -> nn.Module:
    """Returns the module whose output a plain sequence of modules puts out; other modules are returned as they are."""
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    return module
