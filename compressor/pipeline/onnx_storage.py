"""What the fixed-point weights of an ONNX file take on a chip, recounted from that file alone.

    levels, scale      initializers of the file: `DequantizeLinear`, or `Cast` and `Mul`, make a weight of them
    word length        metadata `fixed_point`, by the name in the levels' doc_string
    absent rows        of a SparseConv: its bit for each (input channel, tap)

A layer without a batch norm takes what its checkpoint says (`QuantizedNetwork.layers`). A folded batch norm gives each
output channel a step of its own, and a kernel that became smaller needs no mask; the file's numbers say so.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from compressor.quantise import FixedPoint, LayerStorage, layer_storage, packed_bytes
from exporters import opset
from exporters.errors import ExportError
from exporters.load import load_onnx
from exporters.metadata import read_metadata
from exporters.nodes import attributes_of, is_op

__all__ = ["FileStorage", "onnx_storage"]


@dataclass(frozen=True)
class FileStorage:
    """The fixed-point weights of a file.

    Attributes:
        layers: One entry for each.
        packed_bytes: All of them packed at their word lengths, every other float of the file as float32.
    """

    layers: tuple[LayerStorage, ...]
    packed_bytes: int

    def summary(self) -> str:
        """One line for people."""
        live, weights, masks, steps = (
            sum(getattr(layer, name) for layer in self.layers) for name in ("live", "weights", "mask_bits", "steps")
        )
        return (
            f"fixed point: {self.packed_bytes} bytes packed ({live} of {weights} weights live, {steps} steps, "
            f"masks of {masks} bits, other numbers as float32)"
        )

    def to_json(self) -> dict[str, object]:
        """Plain values with units in the names."""
        return {"packed_bytes": self.packed_bytes, "layers": [layer.to_json() for layer in self.layers]}


def onnx_storage(path: str | Path) -> FileStorage:
    """Returns what the fixed-point weights of a file take; no layers for a file without any.

    Raises:
        ExportError: The file is not usable, see `load_onnx`, or does not say how many bits its levels have.
    """
    model = load_onnx(path)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    words = read_metadata(model).get("fixed_point")
    bits = words if isinstance(words, dict) else {}
    layers, scales = [], set()
    for node, levels, scale in _stored(model, held):
        entry = bits.get(levels.doc_string)
        if not isinstance(entry, dict) or not isinstance(entry.get("bits"), int):
            raise ExportError(
                f"{path}: nothing says how many bits {levels.name} has; export the checkpoint with this version"
            )
        step = numpy_helper.to_array(scale).reshape(-1)
        dense = _in_places(node, numpy_helper.to_array(levels).astype(np.int8), held)
        fixed = FixedPoint(
            torch.from_numpy(dense), torch.tensor(step if step.size > 1 else step[0]), entry["bits"], None
        )
        layers.append(layer_storage(levels.doc_string, fixed))
        scales.add(scale.name)
    others = sum(
        int(np.prod(tensor.dims))
        for tensor in held.values()
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales
    )
    return FileStorage(tuple(layers), packed_bytes(layers, others))


def _stored(model: ModelProto, held: dict[str, TensorProto]) -> list[tuple[NodeProto, TensorProto, TensorProto]]:
    """Each node that reads a stored weight, with the weight's levels and scale; a shared weight comes once."""
    made: dict[str, tuple[str, str]] = {}
    cast = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    found = []
    for node in model.graph.node:
        for name in node.input:
            if name in made:
                levels, scale = made.pop(name)
                found.append((node, held[levels], held[scale]))
        if node.op_type == "DequantizeLinear" or (node.op_type == "Mul" and node.input[0] in cast):
            levels = cast.get(node.input[0], node.input[0])
            if levels in held and held[levels].doc_string and node.input[1] in held:
                made[node.output[0]] = (levels, node.input[1])
    return found


def _in_places(node: NodeProto, levels: npt.NDArray[np.int8], held: dict[str, TensorProto]) -> npt.NDArray[np.int8]:
    """Levels in their dense shape: the (K, R) of a SparseConv as (K, C, kh, kw), others as they are."""
    if not is_op(node, opset.SPARSE_CONV):
        return levels
    settings = attributes_of(node)
    channels, kernel = settings["in_channels"], settings["kernel_shape"]
    rows = np.unpackbits(numpy_helper.to_array(held[node.input[2]]), bitorder="little").astype(bool)
    dense = np.zeros((len(levels), channels * int(np.prod(kernel))), np.int8)
    dense[:, rows[: dense.shape[1]]] = levels
    return dense.reshape(len(levels), channels, *kernel)
