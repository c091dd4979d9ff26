"""Turns convolutions with zeros in their weights into what computes less: a smaller kernel, or a SparseConv.

1. Taps that no kernel of the layer uses: the kernel becomes smaller or dilated where that is exact (`narrow_kernels`).
2. Rows of the lowered feature map (input channel, tap) that no output uses: a SparseConv of the others, where the rule
   of `exporters.sparse_form` says that it is faster, or where it is asked for.
3. Zeros in rows that other outputs use (kernel pruning), grouped convolutions, weights that are computed: dense.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.passes.narrow_kernels import Narrowed, narrowed
from exporters.sparse_form import LEAST_SPEEDUP, LayerForm, check_mode, predicted_speedup
from exporters.surgery import add_node, constant_value, fresh_name

__all__ = ["LowerSparseConv"]

_FEW_ZEROS = 0.1
"""A layer with a smaller share of zero weights and no absent row was not pruned, and nothing is said of it."""


@dataclass
class LowerSparseConv:
    """The pass, and what it decided.

    Attributes:
        mode: One of SPARSE_MODES.
        forms: One entry for each pruned convolution of the last graph, in its order.
    """

    mode: str = "auto"
    forms: list[LayerForm] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks the mode.

        Raises:
            ExportError: It is not in SPARSE_MODES.
        """
        check_mode(self.mode)

    def __call__(self, graph: gs.Graph) -> int:
        """Changes `graph`; returns the number of layers that have another form now."""
        self.forms.clear()
        changed = 0
        if self.mode == "off":
            return changed
        for node in list(graph.nodes):
            weight = _kernels(node)
            if weight is None:
                continue
            all_rows = (weight != 0).any(axis=0)
            if (all_rows.all() and (weight == 0).mean() < _FEW_ZEROS) or not all_rows.any():
                continue
            small = narrowed(weight, pads=_pads(node), dilations=_pair(node, "dilations"))
            if small is not None:
                _narrow(graph, node, small)
            form = self._form(node, weight, small)
            self.forms.append(form)
            if form.form == "sparse":
                _make_sparse(graph, node)
            changed += form.form == "sparse" or small is not None
        graph.cleanup().toposort()
        return changed

    def _form(self, node: gs.Node, weight: npt.NDArray[np.float32], small: Narrowed | None) -> LayerForm:
        kept = weight if small is None else small.weight
        outputs, channels = len(kept), kept.shape[1]
        rows = (kept != 0).any(axis=0)
        count = int(rows.sum())
        gain = predicted_speedup(
            outputs=outputs,
            channels=channels,
            rows=count,
            all_rows=rows.size,
            pixels=_pixels(node),
            stride_area=math.prod(_pair(node, "strides")),
        )
        sparse = False
        if int(node.attrs.get("group", 1)) != 1:
            reason = "a grouped convolution has no sparse form"
        elif count == rows.size:
            zeros = float((kept == 0).mean())
            reason = "every row is read" + (
                f" by some output, though {zeros:.0%} of the weights are 0" if zeros else ""
            )
        elif self.mode == "never":
            reason = "no sparse layers here"
        elif self.mode == "always":
            sparse, reason = True, f"as asked; predicted {gain:.2f} times as fast as dense"
        else:
            sparse = gain >= LEAST_SPEEDUP
            reason = f"predicted {gain:.2f} times as fast {'as dense' if sparse else 'if sparse'}"
        shape = None if small is None else (*kept.shape[2:], *small.dilations)
        kernel = (weight.shape[2], weight.shape[3])
        return LayerForm(node.name, "sparse" if sparse else "dense", kernel, shape, count, rows.size, gain, reason)


def _kernels(node: gs.Node) -> npt.NDArray[np.float32] | None:
    """(K, C/groups, kh, kw) of a two-dimensional convolution with constant weights and stated pads; else None."""
    if node.op != "Conv" or node.domain or node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    constants = [constant_value(tensor) for tensor in node.inputs[1:]]
    if any(value is None for value in constants) or constants[0] is None or constants[0].ndim != 4:
        return None
    weight: npt.NDArray[np.float32] = constants[0].astype(np.float32, copy=False)
    return weight


def _pads(node: gs.Node) -> list[int]:
    return list(node.attrs.get("pads", [0, 0, 0, 0]))


def _pair(node: gs.Node, name: str) -> list[int]:
    return list(node.attrs.get(name, [1, 1]))


def _pixels(node: gs.Node) -> int | None:
    shape = node.outputs[0].shape
    sizes = [] if shape is None else [size for size in shape[2:] if isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == 2 else None


def _narrow(graph: gs.Graph, node: gs.Node, small: Narrowed) -> None:
    node.inputs[1] = gs.Constant(fresh_name(graph, f"{node.name}.weight"), small.weight)
    node.attrs.update(kernel_shape=list(small.weight.shape[2:]), pads=list(small.pads), dilations=list(small.dilations))


def _make_sparse(graph: gs.Graph, node: gs.Node) -> None:
    """Puts a SparseConv of the live rows in place of a Conv."""
    weight = _kernels(node)
    assert weight is not None
    rows = (weight != 0).any(axis=0).reshape(-1)
    bias = node.inputs[2].values if len(node.inputs) > 2 else np.zeros(len(weight), np.float32)
    constants = {
        "weight": np.ascontiguousarray(weight.reshape(len(weight), -1)[:, rows]),
        "places": np.packbits(rows, bitorder="little"),
        "bias": np.ascontiguousarray(bias, np.float32),
    }
    outputs = list(node.outputs)
    node.outputs.clear()
    add_node(
        graph,
        opset.SPARSE_CONV.name,
        [node.inputs[0], *(gs.Constant(fresh_name(graph, f"{node.name}.{n}"), v) for n, v in constants.items())],
        name=node.name,
        domain=opset.DOMAIN,
        attrs={
            "kernel_shape": list(weight.shape[2:]),
            "in_channels": weight.shape[1],
            "strides": _pair(node, "strides"),
            "pads": _pads(node),
            "dilations": _pair(node, "dilations"),
            **opset.NO_CLAMP,
        },
        outputs=outputs,
    )
