"""Stores weights as whole numbers: an INT8 or INT4 initializer and what turns it back into float32.

    standard ops    DequantizeLinear(levels, scale) -> W        INT4 up to 4 bits, INT8 above
    our own ops     Mul(Cast(levels), scale) -> W               same numbers

Both are exact: one product in float32. ONNX Runtime keeps a DequantizeLinear in the graph unless the session option
`session.disable_quant_qdq` is set (which `runtime.Session` does for such files), but folds the second form at load in
every session; our kernels take constant weights only, so they get that one. Tried with ONNX Runtime 1.31.1.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporters import opset
from exporters.errors import ExportError
from exporters.fixed_point import FixedWeight, Words, recover

__all__ = ["INT4_OPSET", "quantize_weights"]

INT4_OPSET = 21
"""First opset whose DequantizeLinear and Cast take 4-bit integers."""

_INT4_BITS = 4


def quantize_weights(model: ModelProto, weights: Sequence[FixedWeight]) -> ModelProto:
    """Returns a finished model whose float weights are stored as fixed-point words.

    A weight that no node of its module reads (a branch that evaluation leaves out) is passed over.

    Args:
        model: With float weights, local functions attached, nodes named after their modules.
        weights: As the torch network has them.

    Raises:
        ExportError: A weight in the graph is not a multiple of its levels, or 4-bit words are asked of an opset that
            has none.
    """
    result = ModelProto()
    result.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    by_module: dict[str, list[FixedWeight]] = {}
    for weight in weights:
        by_module.setdefault(weight.module, []).append(weight)
    made: dict[str, list[NodeProto]] = {}
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        for fixed in by_module.get(_module(node, by_module), ()):
            tensor = _read_by(node, fixed, tensors)
            if tensor is None:
                continue
            words = recover(fixed, numpy_helper.to_array(tensor))
            if words is None:
                raise ExportError(
                    f"node '{node.name}': its weight is not a multiple of the {fixed.bits}-bit levels of {fixed.name}; "
                    "export the checkpoint as 'compress quantize' wrote it"
                )
            made[tensor.name] = _store(result, tensor, fixed, words, own_op=node.domain == opset.DOMAIN)
            del tensors[tensor.name]
        for name in node.input:
            nodes.extend(made.pop(name, ()))
        nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _module(node: NodeProto, modules: Iterable[str]) -> str:
    """The module that a node computes for: `layer1.0.conv1/Conv_2` and `layer1.0.conv1_2` are layer1.0.conv1's."""
    scope, slash, _ = node.name.rpartition("/")
    while slash and scope not in modules and "/" in scope:
        scope = scope.rpartition("/")[0]
    name = scope if slash else node.name
    if name in modules:
        return str(name)
    stem, _, number = name.rpartition("_")
    return str(stem) if number.isdecimal() and stem in modules else ""


def _read_by(node: NodeProto, fixed: FixedWeight, tensors: dict[str, TensorProto]) -> TensorProto | None:
    """The float initializer that a node reads as this weight: of its shape, or in the place of a kernel."""
    shape = fixed.levels.shape
    turned = shape[::-1] if len(shape) == 2 else shape
    for place, name in enumerate(node.input):
        tensor = tensors.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        if tuple(tensor.dims) in (shape, turned):
            return tensor
        if place == 1 and len(shape) > 2 and node.op_type in _KERNEL_OPS:
            return tensor
    return None


_KERNEL_OPS = frozenset(["Conv", "SparseConv"])
"""Ops that may hold a kernel from which columns were left out."""


def _store(
    model: ModelProto, tensor: TensorProto, fixed: FixedWeight, words: Words, *, own_op: bool
) -> list[NodeProto]:
    """Changes `model`: levels and scale in place of a float initializer. Returns the nodes that give it back."""
    name = tensor.name
    model.graph.initializer.remove(tensor)
    scale = words.scale
    if own_op and scale.ndim:
        shape = [1] * words.levels.ndim
        shape[words.axis] = -1
        scale = scale.reshape(shape)
    levels = _stored(model, f"{name}.levels", words, fixed.bits)
    levels.doc_string = fixed.name  # under which the metadata say how many bits
    model.graph.initializer.extend([levels, numpy_helper.from_array(scale, f"{name}.scale")])
    if not own_op:
        node = helper.make_node("DequantizeLinear", [levels.name, f"{name}.scale"], [name], f"{name}/DequantizeLinear")
        if scale.ndim:
            node.attribute.append(helper.make_attribute("axis", words.axis))
        return [node]
    return [
        helper.make_node("Cast", [levels.name], [f"{name}.cast"], f"{name}/Cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name], f"{name}/Mul"),
    ]


def _stored(model: ModelProto, name: str, words: Words, bits: int) -> TensorProto:
    """The levels as an INT4 tensor, two in a byte, the first in the lower half; or as INT8."""
    if bits > _INT4_BITS:
        return numpy_helper.from_array(words.levels, name)
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < INT4_OPSET:
        raise ExportError(
            f"{bits}-bit weights are stored as INT4, which opset {version} does not have; choose {INT4_OPSET} or "
            "newer, or quantise to 5 bits or more"
        )
    halves = words.levels.reshape(-1).view(np.uint8) & 0x0F
    halves = np.append(halves, np.zeros(len(halves) % 2, np.uint8))
    packed = halves[0::2] | (halves[1::2] << 4)
    return helper.make_tensor(name, TensorProto.INT4, words.levels.shape, packed.tobytes(), raw=True)
