"""A program as a torch module: layers under readable names, trainable, and traceable by `compressor.graph`."""

from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CheckpointError
from compressor.onnx_in.functions import FUNCTIONS
from compressor.onnx_in.layers import make_layer
from compressor.onnx_in.program import BLOCK, Program, Step

__all__ = ["Network", "build", "run_step"]

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.int64, torch.int32, torch.bool)}


class Network(nn.Module):
    """Does the steps of a program one after the other.

    Layers of the program are its submodules; a block is a submodule of this class. Constants are buffers.

    Args:
        program: The steps.
        inside: Path of this block in the whole network; empty for the network itself.
    """

    def __init__(self, program: Program, inside: str = "") -> None:
        super().__init__()
        self._program = program
        self._local = {
            step.name: step.name.removeprefix(f"{inside}.") if inside else step.name for step in program.steps
        }
        self._last_use = _last_uses(program)
        for name, about in program.constants.items():
            self.register_buffer(name, torch.zeros(about["shape"], dtype=_DTYPES[about["dtype"]]))
        for step in program.steps:
            if step.name:
                layer = Network(step.body, step.name) if step.body else make_layer(step.kind, step.settings)
                _place(self, self._local[step.name], layer)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the program's output for its input, (N, ...) float32."""
        values: dict[str, Any] = {self._program.input: x}
        for name in self._program.constants:
            values[name] = getattr(self, name)
        for place, step in enumerate(self._program.steps):
            layer = self.get_submodule(self._local[step.name]) if step.name else None
            results = run_step(step, [values[o] if isinstance(o, str) else o for o in step.inputs], layer)
            values.update(zip(step.outputs, results, strict=True))
            for name in self._last_use[place]:  # or a run without gradients would hold every activation
                del values[name]
        output: Tensor = values[self._program.output]
        return output


def build(program: Program) -> Network:
    """Returns the network of a program, with weights that do not matter.

    Raises:
        CheckpointError: The program names what this release does not know, or does not fit together.
    """
    try:
        return Network(program)
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the network's description is damaged: {type(error).__name__} {error}") from error


def run_step(step: Step, operands: list[Any], layer: nn.Module | None) -> list[Tensor]:
    """Returns what one step makes of its inputs.

    Args:
        step: A layer, block or plain function.
        operands: Its inputs, tensors and numbers.
        layer: The module that does it; None for a plain function.

    Raises:
        CheckpointError: There is no such function.
    """
    if layer is not None:
        return [layer(*operands)]
    if step.kind not in FUNCTIONS or step.kind == BLOCK:
        raise CheckpointError(f"the network has a function '{step.kind}' that this release does not know")
    result = FUNCTIONS[step.kind](*operands, **step.settings)
    return result if isinstance(result, list) else [result]


def _place(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Changes `root`: `layer` lies at `path`, in containers that are made where they are missing."""
    *above, leaf = path.split(".")
    for name in above:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(leaf, layer)


def _last_uses(program: Program) -> list[tuple[str, ...]]:
    """For each step the values that no later step reads."""
    last: dict[str, int] = {}
    for place, step in enumerate(program.steps):
        for name in (*step.values, *step.outputs):
            last[name] = place
    for kept in (program.output, *program.constants):
        last.pop(kept, None)
    return [tuple(name for name, at in last.items() if at == place) for place in range(len(program.steps))]
