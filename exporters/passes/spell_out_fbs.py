"""Writes FBS layers in standard ops and NCHW, for engines that know neither our ops nor local functions.

With u the mean |x| of each plane, s = leaky(u A + R) (normalised where the layer asks for it) and `v, j = TopK(s, k)`:

    gathered    y = v * (conv(x, W[j][:, i]) + B[j]) [+ D[j]]         packed: k planes; i are the channels that x has
    masked      y = p * (conv(x, W) + B) [+ m D],  p = v at j, else 0   dense; m is 1 at j, else 0

Gathered layers compute the winners alone and hand each other packed planes, but choose one set of kernels, so they
serve one sample per run. Masked layers serve any batch and keep their kernels constant (which Q/DQ needs); their
multiplications are those of the dense layer. Formula and source: `exporters.opset.FBS_CONV`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from exporters import opset
from exporters.passes.lower_fbs_conv import checked_constants
from exporters.surgery import add_node, fresh_name, keeps_zero_planes

__all__ = ["gather_fbs", "mask_fbs"]

_SPREAD = "Spread"
"""Stands, inside this pass, for dense planes made of packed ones: inputs packed (1, k, H, W) and j (k,)."""

_PLANE_AXES = np.array([2, 3], np.int64)
_POOLS = frozenset(["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
_PLANE_REDUCTIONS = frozenset(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"])


@dataclass(frozen=True)
class _Layer:
    """One FBS layer being written; `weight` (K, C, kh, kw), `a` (C, K), the others (K,)."""

    graph: gs.Graph
    node: gs.Node
    weight: gs.Constant
    shift: gs.Constant
    a: gs.Constant
    r: gs.Constant
    d: gs.Constant | None

    @property
    def winners(self) -> int:
        """The layer's k."""
        return int(self.node.attrs["winners"])

    def add(self, op: str, inputs: list[gs.Tensor], role: str, **attributes: object) -> gs.Tensor:
        """Adds a node called after the layer and its role; returns its float output."""
        return add_node(self.graph, op, inputs, name=f"{self.node.name}/{role}", attrs=attributes).outputs[0]

    def add_indices(self, op: str, inputs: list[gs.Tensor], role: str, **attributes: object) -> gs.Tensor:
        """The same with an int64 output."""
        tensor = self.add(op, inputs, role, **attributes)
        tensor.dtype = np.int64
        return tensor

    def constant(self, role: str, values: npt.NDArray[np.generic]) -> gs.Constant:
        """An initializer of the layer's own."""
        return gs.Constant(fresh_name(self.graph, f"{self.node.name}.{role}"), values)


def gather_fbs(graph: gs.Graph) -> int:
    """Changes `graph`, of static batch 1: FBS layers in the gathered form; returns how many.

    1. A layer computes its winners from the planes its input really has; behind it they are spread to dense planes.
    2. What acts per channel and keeps a zero plane zero (activations, pools, means over the plane) moves before the
       spreading; a layer that reads spread planes reads the packed ones.
    3. Spreading that is left: Gather from the packed planes with a plane of zeros behind them.

    Raises:
        ExportError: A layer's weights are computed from the input, or its sizes do not fit together.
    """
    layers = _layers(graph)
    for layer in layers:
        _place_spread(layer)
    graph.cleanup().toposort()
    while sum(_push(graph, node) for node in list(graph.nodes) if node.op == _SPREAD):
        graph.cleanup().toposort()
    for layer in layers:
        _gathered(layer)
    for node in [node for node in graph.nodes if node.op == _SPREAD]:
        _write_spread(graph, node)
    graph.cleanup().toposort()
    return len(layers)


def mask_fbs(graph: gs.Graph) -> int:
    """Changes `graph`, of any batch: FBS layers in the masked form; returns how many.

    Raises:
        ExportError: As `gather_fbs`.
    """
    layers = _layers(graph)
    for layer in layers:
        _masked(layer)
    graph.cleanup().toposort()
    return len(layers)


def _layers(graph: gs.Graph) -> list[_Layer]:
    found = []
    for node in graph.nodes:
        if node.op == opset.TORCH_FBS_CONV:
            weight, shift, a, r, *rest = checked_constants(graph, node)
            found.append(_Layer(graph, node, weight, shift, a, r, rest[0] if rest else None))
    return found


def _place_spread(layer: _Layer) -> None:
    """The layer's node now gives packed planes and j; a Spread behind it gives its old dense output."""
    dense = layer.node.outputs[0]
    if layer.winners == layer.weight.shape[0]:
        return
    packed = gs.Variable(
        fresh_name(layer.graph, layer.node.name), np.float32, _with_channels(dense.shape, layer.winners)
    )
    places = gs.Variable(fresh_name(layer.graph, layer.node.name), np.int64, [layer.winners])
    layer.node.outputs = [packed, places]
    _add_spread(layer.graph, layer.node.name, packed, places, dense)


def _add_spread(graph: gs.Graph, name: str, packed: gs.Tensor, places: gs.Tensor, dense: gs.Tensor) -> None:
    channels: dict[str, object] = {"channels": int(dense.shape[1])}
    add_node(graph, _SPREAD, [packed, places], name=f"{name}/{_SPREAD}", attrs=channels, outputs=[dense])


def _push(graph: gs.Graph, spread: gs.Node) -> bool:
    packed, places = spread.inputs
    dense = spread.outputs[0]
    moved = False
    for reader in list(dense.outputs):
        if reader.inputs[0] is not dense:
            continue
        if reader.op == opset.TORCH_FBS_CONV:
            reader.inputs[0] = packed
            reader.attrs["live"] = places
        elif _acts_per_channel(reader):
            output = reader.outputs[0]
            inner = gs.Variable(
                fresh_name(graph, reader.name), np.float32, _with_channels(output.shape, packed.shape[1])
            )
            reader.inputs[0] = packed
            reader.outputs = [inner]
            _add_spread(graph, reader.name, inner, places, output)
        else:
            continue
        moved = True
    return moved


def _acts_per_channel(node: gs.Node) -> bool:
    if keeps_zero_planes(node):
        return True
    if node.op in _POOLS:
        return len(node.outputs) == 1
    if node.op not in _PLANE_REDUCTIONS or not node.attrs.get("keepdims", 1) or len(node.inputs) < 2:
        return False
    axes = node.inputs[1]
    return isinstance(axes, gs.Constant) and sorted(axis % 4 for axis in axes.values.tolist()) == [2, 3]


def _with_channels(shape: list[int | str], channels: int) -> list[int | str]:
    return [shape[0], channels, *shape[2:]]


def _saliency(layer: _Layer, x: gs.Tensor, live: gs.Tensor | None) -> gs.Tensor:
    """The saliencies (N, K)."""
    outputs = layer.weight.shape[0]
    mean = layer.add(
        "ReduceMean", [layer.add("Abs", [x], "Abs"), layer.constant("axes", _PLANE_AXES)], "mean", keepdims=0
    )
    a = layer.a if live is None else layer.add("Gather", [layer.a, live], "live_rows", axis=0)
    s = layer.add("Gemm", [mean, a, layer.r], "saliency")
    slope = float(layer.node.attrs["saliency_slope"])
    if slope == 0.0:
        s = layer.add("Relu", [s], "leaky")
    elif slope != 1.0:
        s = layer.add("LeakyRelu", [s], "leaky", alpha=slope)
    if not layer.node.attrs["normalize"]:
        return s
    total = layer.add("ReduceSum", [s, layer.constant("sum_axes", np.array([1], np.int64))], "total", keepdims=1)
    count = layer.constant("outputs", np.array([[outputs]], np.float32))
    is_zero = layer.add("Equal", [total, layer.constant("zero", np.zeros((1, 1), np.float32))], "no_total")
    is_zero.dtype = np.bool_
    divisor = layer.add("Where", [is_zero, count, total], "divisor")
    return layer.add("Mul", [s, layer.add("Div", [count, divisor], "factor")], "normalized")


def _top(layer: _Layer, s: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor]:
    """Values and places (N, k) of the winners, the largest first; equals in ascending order, as ONNX has it."""
    k = layer.constant("k", np.array([layer.winners], np.int64))
    values = gs.Variable(fresh_name(layer.graph, layer.node.name), np.float32)
    places = gs.Variable(fresh_name(layer.graph, layer.node.name), np.int64)
    attributes: dict[str, object] = {"axis": 1, "largest": 1, "sorted": 1}
    name = f"{layer.node.name}{opset.WINNERS}"
    block = int(layer.node.attrs["winner_block"])
    ranked = s if block == 1 else _block_means(layer, s, block)
    add_node(layer.graph, "TopK", [ranked, k], name=name, attrs=attributes, outputs=[values, places])
    return (values if block == 1 else layer.add("GatherElements", [s, places], "won", axis=1)), places


def _block_means(layer: _Layer, s: gs.Tensor, block: int) -> gs.Tensor:
    """Each channel's block's mean (N, K); the last block is smaller where K is no multiple."""
    outputs = layer.weight.shape[0]
    starts = np.arange(0, outputs, block)
    if outputs % block:
        pads = layer.constant("block_pads", np.array([0, 0, 0, -outputs % block], np.int64))
        s = layer.add("Pad", [s, pads], "whole_blocks")
    shape = layer.constant("block_shape", np.array([-1, len(starts), block], np.int64))
    axis = layer.constant("block_axis", np.array([2], np.int64))
    sums = layer.add("ReduceSum", [layer.add("Reshape", [s, shape], "blocks"), axis], "block_sums", keepdims=0)
    sizes = layer.constant("block_sizes", np.minimum(block, outputs - starts).astype(np.float32))
    means = layer.add("Div", [sums, sizes], "block_means")
    return layer.add("Gather", [means, layer.constant("block_of", np.arange(outputs) // block)], "ranked", axis=1)


def _convolution(layer: _Layer, x: gs.Tensor, weight: gs.Tensor, shift: gs.Tensor) -> gs.Tensor:
    attributes: dict[str, object] = {name: list(layer.node.attrs[name]) for name in ("strides", "pads", "dilations")}
    # Said once more, because weights may be computed: TensorRT does not look at their shape then.
    attributes["kernel_shape"] = list(layer.weight.shape[2:])
    made = add_node(layer.graph, "Conv", [x, weight, shift], name=layer.node.name, attrs=attributes)
    output: gs.Tensor = made.outputs[0]
    return output


def _gathered(layer: _Layer) -> None:
    graph, node = layer.graph, layer.node
    live = node.attrs.pop("live", None)
    s = _saliency(layer, node.inputs[0], live)
    weight, shift, d = layer.weight, layer.shift, layer.d
    if layer.winners < layer.weight.shape[0]:
        s, places = _top(layer, s)
        flat = layer.constant("k_shape", np.array([layer.winners], np.int64))
        j = add_node(graph, "Reshape", [places, flat], name=f"{node.name}/j", outputs=[node.outputs[1]]).outputs[0]
        weight = layer.add("Gather", [weight, j], "rows", axis=0)
        shift = layer.add("Gather", [shift, j], "shift", axis=0)
        d = None if d is None else layer.add("Gather", [d, j], "post_shift", axis=0)
    if live is not None:
        weight = layer.add("Gather", [weight, live], "kernels", axis=1)
    product = _convolution(layer, node.inputs[0], weight, shift)
    planes = layer.constant("plane_shape", np.array([1, layer.winners, 1, 1], np.int64))
    result = node.outputs[0]
    node.outputs.clear()
    scale = layer.add("Reshape", [s, planes], "scale")
    if d is None:
        add_node(graph, "Mul", [product, scale], name=f"{node.name}/Mul", outputs=[result])
        return
    scaled = layer.add("Mul", [product, scale], "Mul")
    add_node(
        graph,
        "Add",
        [scaled, layer.add("Reshape", [d, planes], "post_planes")],
        name=f"{node.name}/Add",
        outputs=[result],
    )


def _masked(layer: _Layer) -> None:
    graph, node = layer.graph, layer.node
    outputs = layer.weight.shape[0]
    s = _saliency(layer, node.inputs[0], None)
    axes = layer.constant("axes", _PLANE_AXES)
    mask = None
    if layer.winners < outputs:
        values, places = _top(layer, s)
        zeros = _filled(layer, s, "zeros", value=0.0, width=outputs)
        s = layer.add("ScatterElements", [zeros, places, values], "p", axis=1)
        if layer.d is not None:
            ones = _filled(layer, values, "ones", value=1.0, width=layer.winners)
            mask = layer.add("ScatterElements", [zeros, places, ones], "mask", axis=1)
    product = _convolution(layer, node.inputs[0], layer.weight, layer.shift)
    result = node.outputs[0]
    node.outputs.clear()
    scale = layer.add("Unsqueeze", [s, axes], "scale")
    if layer.d is None:
        add_node(graph, "Mul", [product, scale], name=f"{node.name}/Mul", outputs=[result])
        return
    scaled = layer.add("Mul", [product, scale], "Mul")
    post = layer.constant("post_shift", layer.d.values.reshape(1, outputs, 1, 1))
    if mask is not None:
        post = layer.add("Mul", [layer.add("Unsqueeze", [mask, axes], "mask_planes"), post], "post_planes")
    add_node(graph, "Add", [scaled, post], name=f"{node.name}/Add", outputs=[result])


def _filled(layer: _Layer, like: gs.Tensor, role: str, *, value: float, width: int) -> gs.Tensor:
    """A tensor (N, width) of one value; made at run time where N is open."""
    batch = layer.node.inputs[0].shape[0]
    if isinstance(batch, int):
        return layer.constant(role, np.full((batch, width), value, np.float32))
    shape = layer.add_indices("Shape", [like], f"{role}_shape")
    filling = gs.Constant(role, np.array([value], np.float32))
    return layer.add("ConstantOfShape", [shape], role, value=filling)


def _write_spread(graph: gs.Graph, node: gs.Node) -> None:
    """Dense channel c takes packed plane n where j[n] = c, else the plane of zeros behind the packed ones."""
    packed, j = node.inputs
    name, channels = node.name, node.attrs["channels"]
    live = packed.shape[1]
    dense = node.outputs[0]
    node.outputs.clear()

    def constant(role: str, values: npt.NDArray[np.generic]) -> gs.Constant:
        return gs.Constant(fresh_name(graph, f"{name}.{role}"), values)

    absent = constant("absent", np.full(channels, live, np.int64))
    order = constant("order", np.arange(live, dtype=np.int64))
    places = add_node(graph, "ScatterElements", [absent, j, order], name=f"{name}/places", attrs={"axis": 0})
    places.outputs[0].dtype = np.int64
    zero_plane = constant("zero_plane", np.zeros((1, 1, *dense.shape[2:]), np.float32))
    padded = add_node(graph, "Concat", [packed, zero_plane], name=f"{name}/with_zero", attrs={"axis": 1})
    add_node(
        graph,
        "Gather",
        [padded.outputs[0], places.outputs[0]],
        name=name,
        attrs={"axis": 1},
        outputs=[dense],
    )
