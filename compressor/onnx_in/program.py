"""What a network out of an ONNX file computes, as plain values that a checkpoint can hold.

A program is a list of steps over named values. A step is either a layer, a module under its own name, or a plain
function; which ones there are is fixed by `layers.LAYERS` and `functions.FUNCTIONS`, so a stored program runs no code
that is not this project's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from compressor.errors import CheckpointError

__all__ = ["BLOCK", "Program", "Step", "all_steps", "program_from_json", "program_to_json"]

BLOCK = "block"
"""Kind of a step that is a program of its own: a residual block, as a module with its layers inside."""

Operand = str | int | float | bool
"""A value's name, or a number."""


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        kind: A name in `LAYERS` (then `name` says which module) or `FUNCTIONS`, or `BLOCK`.
        inputs: Names of values or constants, and numbers, in the operation's order.
        outputs: Names of the values it makes.
        settings: Arguments of the layer's class or of the function, JSON values.
        name: Path of the module that does it, such as `layer1.0.conv1`; empty for a plain function.
        body: The steps of a block; None elsewhere.
    """

    kind: str
    inputs: tuple[Operand, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # JSON values
    name: str = ""
    body: "Program | None" = None

    @property
    def values(self) -> tuple[str, ...]:
        """Names among the inputs."""
        return tuple(operand for operand in self.inputs if isinstance(operand, str))


@dataclass(frozen=True)
class Program:
    """Steps in an order in which they can be done.

    Attributes:
        input: Name of the value that comes in.
        output: Name of the value that goes out.
        steps: Each reads the input, constants, and what steps before it have made.
        constants: Name → {"shape": [...], "dtype": "float32"} of tensors that no training changes.
    """

    input: str
    output: str
    steps: tuple[Step, ...]
    constants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # JSON values


def all_steps(program: Program) -> Iterator[Step]:
    """Yields every step, those inside blocks in place of the blocks."""
    for step in program.steps:
        if step.body is None:
            yield step
        else:
            yield from all_steps(step.body)


def program_to_json(program: Program) -> dict[str, Any]:  # JSON values
    """Returns plain values; `program_from_json` reads them."""
    return {
        "input": program.input,
        "output": program.output,
        "steps": [_step_to_json(step) for step in program.steps],
        "constants": {name: dict(about) for name, about in program.constants.items()},
    }


def program_from_json(values: Mapping[str, Any]) -> Program:  # JSON values
    """Returns the program that `program_to_json` wrote.

    Raises:
        CheckpointError: An entry is missing or of another type.
    """
    try:
        return Program(
            input=str(values["input"]),
            output=str(values["output"]),
            steps=tuple(_step_from_json(step) for step in values["steps"]),
            constants={str(name): dict(about) for name, about in values["constants"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the network's description is damaged: {type(error).__name__} {error}") from error


def _step_to_json(step: Step) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": step.kind, "inputs": list(step.inputs), "outputs": list(step.outputs)}
    if step.settings:
        values["settings"] = dict(step.settings)
    if step.name:
        values["name"] = step.name
    if step.body is not None:
        values["body"] = program_to_json(step.body)
    return values


def _step_from_json(values: Mapping[str, Any]) -> Step:
    step = Step(
        kind=str(values["kind"]),
        inputs=tuple(values["inputs"]),
        outputs=tuple(str(name) for name in values["outputs"]),
        settings=dict(values.get("settings", {})),
        name=str(values.get("name", "")),
    )
    return replace(step, body=program_from_json(values["body"])) if "body" in values else step
