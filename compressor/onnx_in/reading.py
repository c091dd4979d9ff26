"""`read_network`: an ONNX graph as a program and its weights.

What is read is the graph's meaning for images of one size and batches of any: constant parts are worked out, sizes
are written relative to what comes in. The caller is to compare the result with the file before it is trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.inliner import inline_local_functions
from torch import Tensor

from compressor.errors import OnnxError
from compressor.onnx_in.blocks import nested
from compressor.onnx_in.folding import fold
from compressor.onnx_in.operations import RULES
from compressor.onnx_in.program import Program
from compressor.onnx_in.reader import Node, Reader

__all__ = ["ReadNetwork", "read_network"]

# Batch size of shapes where the file leaves it open: no size of a layer, so that it is not taken for one.
_BATCH = 7
_OWN_DOMAIN = "compress"


@dataclass(frozen=True)
class ReadNetwork:
    """What an ONNX file holds.

    Attributes:
        program: Its steps.
        state: Its weights, as the state dict of `build(program)`.
        size: (channels, height, width) of one image.
        batch: Images per run that the file is fixed to; None where it takes any number.
    """

    program: Program
    state: dict[str, Tensor]
    size: tuple[int, int, int]
    batch: int | None


def read_network(model: ModelProto, *, image_size: tuple[int, int] | None = None) -> ReadNetwork:
    """Returns the network of an ONNX graph.

    Args:
        model: As `exporters.load.load_onnx` returns it: checked, weights inside.
        image_size: Height and width, where the file leaves them open.

    Raises:
        OnnxError: An op is not known here; the graph has not one image input and one output; a size is open; or the
            weights are no float32.
    """
    if model.functions:
        if any(function.domain == _OWN_DOMAIN for function in model.functions):
            raise OnnxError(
                "the file holds FBS layers or sparse kernels of this project; prune the checkpoint it was made from"
            )
        model = inline_local_functions(model)
    _check_ops(model)
    source, batch, size = _image(model, image_size)
    (target,) = _only(model.graph.output, "output")
    reader = Reader(model, (batch or _BATCH, *size))
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for proto in model.graph.node:
        node = Node(proto, version)
        if not fold(reader, proto, node):
            _checked_rule(reader, node)
    output = target.name
    if reader.is_constant(output):
        raise OnnxError(f"output '{output}' does not depend on the image '{source}'")
    program, state = nested(reader.program(output), reader.state)
    return ReadNetwork(program, state, size, batch)


def _checked_rule(reader: Reader, node: Node) -> None:
    rule = RULES.get(node.op)
    if rule is None:
        raise node.refuse(f"depends on the image; ops that can be read so: {', '.join(sorted(RULES))}")
    rule(reader, node)


def _check_ops(model: ModelProto) -> None:
    """Raises OnnxError for ops that no rule can be for, before any work."""
    foreign = [node for node in model.graph.node if node.domain not in ("", "ai.onnx")]
    if foreign:
        named = ", ".join(dict.fromkeys(f"{node.domain}.{node.op_type} (node '{node.name}')" for node in foreign[:3]))
        raise OnnxError(f"the file holds ops that are not ONNX's own: {named}; give a file of standard ops")


def _image(model: ModelProto, image_size: tuple[int, int] | None) -> tuple[str, int | None, tuple[int, int, int]]:
    """Name of the input, its fixed batch size or None, and the size of one image."""
    held = {tensor.name for tensor in model.graph.initializer}
    (value,) = _only([value for value in model.graph.input if value.name not in held], "input")
    kind = value.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        raise OnnxError(
            f"input '{value.name}' is {TensorProto.DataType.Name(kind.elem_type).lower()}; networks of normalised "
            "float images can be read, without their preprocessing"
        )
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
    if len(dims) != 4:
        raise OnnxError(
            f"input '{value.name}' has {len(dims)} dimensions; images have 4: (batch, channels, height, width)"
        )
    batch, channels, *sides = dims
    if not channels:
        raise OnnxError(f"input '{value.name}' leaves its number of channels open; export it with that number fixed")
    for place, side in enumerate(sides):
        if not side and image_size is None:
            raise OnnxError(
                f"input '{value.name}' leaves height or width open; say what the network gets with --image-size HxW, "
                "such as 224x224"
            )
        if image_size is not None and side and side != image_size[place]:
            raise OnnxError(
                f"input '{value.name}' is fixed at {sides[0]}x{sides[1]}, --image-size says "
                f"{image_size[0]}x{image_size[1]}; leave it out"
            )
    height, width = image_size or (sides[0], sides[1])
    return value.name, batch or None, (channels, height, width)


def _only(values: Sequence[ValueInfoProto], what: str) -> Sequence[ValueInfoProto]:
    if len(values) != 1:
        names = ", ".join(value.name for value in values)
        raise OnnxError(f"the network has {len(values)} {what}s ({names}); networks with one can be read")
    return values
