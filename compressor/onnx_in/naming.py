"""Module names out of the names in an ONNX file.

The first of these that says something:

1. The name of the weight: `layer1.0.conv1.weight` is read by `layer1.0.conv1`.
2. The module scopes that torch's exporter notes on the node.
3. The node's own name: `/layer1/layer1.0/conv1/Conv` (torch's older exporter) or `layer1.0.conv1/Conv` (this project).
4. The op and a number.
"""

import ast
import re
from collections.abc import Mapping, Sequence

from torch import nn

__all__ = ["Names"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_NOT_IN_A_NAME = re.compile(r"\W+")


class Names:
    """Gives every layer of one network a path of its own."""

    def __init__(self) -> None:
        self._leaves: set[str] = set()
        self._above: set[str] = set()

    def layer(self, *, op: str, node: str, weight: str = "", notes: Mapping[str, str] | None = None) -> str:
        """Returns a path that no other layer has, or lies under.

        Args:
            op: The ONNX op, such as `Conv`.
            node: The node's name; may be empty.
            weight: Name of the layer's weight; empty where it has none.
            notes: The node's metadata.
        """
        wanted = _of_weight(weight) or _of_scopes((notes or {}).get(_SCOPES, "")) or _of_node(node, op) or op.lower()
        path = self._free(_legal(wanted))
        self._leaves.add(path)
        parts = path.split(".")
        self._above.update(".".join(parts[:depth]) for depth in range(1, len(parts)))
        return path

    def forget(self, path: str) -> None:
        """Makes a layer's path free again."""
        self._leaves.discard(path)

    def _free(self, wanted: str) -> str:
        """`wanted`, with a number behind each part that is a layer already, or a folder where a layer is to be."""
        path = ""
        parts = wanted.split(".")
        for depth, part in enumerate(parts, start=1):
            here, number = f"{path}{part}", 1
            while here in self._leaves or (depth == len(parts) and here in self._above):
                number += 1
                here = f"{path}{part}_{number}"
            path = f"{here}."
        return path.removesuffix(".")


def _of_weight(name: str) -> str:
    path, dot, leaf = name.rpartition(".")
    return path if dot and leaf in ("weight", "kernel", "bias") else ""


def _of_scopes(text: str) -> str:
    """The innermost module; torch's last entry is the operator itself."""
    try:
        scopes = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _of_node(name: str, op: str) -> str:
    parts = [part for part in re.split(r"[/:]", name) if part]
    if len(parts) > 1 and re.sub(r"_\d+$", "", parts[-1]) == op:
        parts.pop()
    return _joined(parts)


def _joined(parts: Sequence[str]) -> str:
    """`layer1`, `layer1.0`, `conv1` -> `layer1.0.conv1`: a part that repeats what is above it takes its place."""
    path: list[str] = []
    for part in parts:
        pieces = part.split(".")
        repeated = next((n for n in range(len(pieces) - 1, 0, -1) if path[-n:] == pieces[:n]), 0)
        path += pieces[repeated:]
    return ".".join(path)


def _legal(path: str) -> str:
    """Names that a module may have: letters, digits and _, and none of `nn.Module`'s own."""
    parts = [_NOT_IN_A_NAME.sub("_", part) or "_" for part in path.split(".") if part]
    return ".".join(f"{part}_" if hasattr(nn.Module, part) or part == "training" else part for part in parts) or "layer"
