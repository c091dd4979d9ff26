"""The state of one walk over an exported graph, and what an operator's rule gets to see."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx

from compressor.graph.ids import IdBook, Ids, Vector

__all__ = [
    "Call",
    "ParameterAxes",
    "Reading",
    "Step",
    "Tensor",
    "Walk",
    "WeightRef",
    "module_path",
    "op_name",
    "source_line",
    "source_lines",
]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_TORCH_CODE = re.compile(r"[/\\]torch[/\\](nn|functional|_)")


@dataclass(frozen=True)
class WeightRef:
    """A parameter or buffer that no shape operator has touched yet; its axes get ids when a rule asks."""

    path: str
    shape: tuple[int, ...]


Tensor = Ids | WeightRef


class ParameterAxes:
    """Ids along the dimensions of every parameter and buffer, issued on first use."""

    def __init__(self, book: IdBook) -> None:
        self._book = book
        self.axes: dict[str, dict[int, Vector]] = {}
        self.reached: set[str] = set()
        self._rigid: dict[str, str] = {}

    def axis(self, ref: WeightRef, dim: int) -> Vector:
        """Returns the ids along `dim` of a parameter; the same ones every time."""
        known = self.axes.setdefault(ref.path, {})
        if dim not in known:
            known[dim] = self._book.new(ref.shape[dim])
            if ref.path in self._rigid:
                self._book.freeze(known[dim], self._rigid[ref.path])
        return known[dim]

    def freeze(self, ref: WeightRef, reason: str) -> None:
        """Keeps a parameter whole."""
        self._rigid.setdefault(ref.path, reason)
        for vector in self.axes.setdefault(ref.path, {}).values():
            self._book.freeze(vector, reason)

    def ids(self, ref: WeightRef) -> Ids:
        """Returns a parameter as a tensor with ids along every dimension longer than 1."""
        axes = (self.axis(ref, dim) if size > 1 else None for dim, size in enumerate(ref.shape))
        return Ids(ref.shape, tuple(axes))


@dataclass(frozen=True)
class Call:
    """One layer call in ids; becomes a `LayerChannels` once units are known."""

    name: str
    kind: str
    weight: str | None
    inputs: Vector
    outputs: Vector
    groups: int
    macs: int
    norm: str | None


@dataclass(frozen=True)
class Reading:
    """How sizes and numbers in the network's own code are taken; `probe` refines it.

    Attributes:
        modes: node name → which reading of its sizes to take; 0 where absent.
        rigid: names of nodes whose tensors may not change at all.
        everything: why no channel of the network may be cut; None as a rule.
        training_rigid: layers that only training reaches keep all the channels they hold.
    """

    modes: Mapping[str, int] = field(default_factory=dict)
    rigid: frozenset[str] = frozenset()
    everything: str | None = None
    training_rigid: bool = False


@dataclass
class Walk:
    """State of one walk; several walks may share book and parameters.

    Attributes:
        module: the network, for the settings of its layers.
        reading: how sizes in the network's code are taken.
        flexible: node name → number of readings there are; one past the last means: freeze.
        starts: slice node name → ids before its start, to tell a moved slice from one that stayed.
        calls: layers met.
        values: node → its ids.
    """

    book: IdBook
    parameters: ParameterAxes
    module: torch.nn.Module
    reading: Reading = field(default_factory=Reading)
    flexible: dict[str, int] = field(default_factory=dict)
    starts: dict[str, Vector] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    values: dict[fx.Node, Any] = field(default_factory=dict)  # Any: Tensor, a list of them, or a plain value


@dataclass(frozen=True)
class Step:
    """One operator call: its node, its arguments by name with ids for tensors, and the walk it belongs to."""

    walk: Walk
    node: fx.Node
    args: Mapping[str, Any]  # Any: whatever the operator's schema allows

    @property
    def op(self) -> str:
        """Operator name without name space and overload: `conv2d`."""
        return op_name(self.node)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) output."""
        value = self.node.meta["val"]
        return tuple(value[0].shape if isinstance(value, list | tuple) else value.shape)

    @property
    def first(self) -> Any:  # Any: the first argument, whatever its name
        """The first argument."""
        return next(iter(self.args.values()))

    def dim(self, name: str = "dim") -> int:
        """Returns a dimension argument of the first tensor, counted from the front."""
        return int(self.args[name]) % len(self.ids(self.first).shape)

    @property
    def book(self) -> IdBook:
        """The walk's ids."""
        return self.walk.book

    @property
    def where(self) -> str:
        """`file.py:12`, the line of the network that made this call; empty when unknown."""
        line = source_line(self.node)
        return f"{Path(line[0]).name}:{line[1]}" if line else ""

    @property
    def module_path(self) -> str:
        """Path of the innermost module that made this call; empty for the network itself."""
        return module_path(self.node)

    def because(self, text: str) -> str:
        """Returns a reason that names the line."""
        return f"{text} ({self.where})" if self.where else text

    def ids(self, value: Tensor) -> Ids:
        """Returns the ids of a tensor argument, parameters included."""
        return self.walk.parameters.ids(value) if isinstance(value, WeightRef) else value

    def tensors(self) -> list[Tensor]:
        """Returns all tensor arguments, those inside lists too."""
        found: list[Tensor] = []
        for value in self.args.values():
            items = value if isinstance(value, list | tuple) else [value]
            found += [item for item in items if isinstance(item, Ids | WeightRef)]
        return found

    def flexible(self, readings: int) -> int:
        """Notes that this call's sizes may be written in the network's code; returns the reading to take."""
        name = self.node.name
        self.walk.flexible[name] = max(readings, self.walk.flexible.get(name, 0))
        return self.walk.reading.modes.get(name, 0)


def op_name(node: fx.Node) -> str:
    """Returns `conv2d` for `aten::conv2d`; other name spaces are kept."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))
    return str(name).removeprefix("aten::")


def module_path(node: fx.Node) -> str:
    """Returns the path of the innermost module that made a node; empty for the network itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return re.sub(r"@\d+", "", stack[-1][0]) if stack else ""


def source_lines(node: fx.Node) -> list[tuple[str, int]]:
    """Returns (file, line) of the calls in the network's own code that led to a node, outermost first."""
    frames = [(m["file"], int(m["line"])) for m in _FRAME.finditer(node.meta.get("stack_trace") or "")]
    return [frame for frame in frames if not _TORCH_CODE.search(frame[0])] or frames


def source_line(node: fx.Node) -> tuple[str, int] | None:
    """Returns (file, line) of the network's own code that made a node; None when not recorded."""
    lines = source_lines(node)
    return lines[-1] if lines else None
