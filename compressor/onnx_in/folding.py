"""Values that depend on constants and shapes alone, worked out while a graph is read."""

import warnings

import numpy as np
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from compressor.errors import OnnxError
from compressor.onnx_in.reader import Array, Node, Reader

__all__ = ["fold"]

# Their results are not what the numbers in the file say.
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def fold(reader: Reader, proto: NodeProto, node: Node) -> bool:
    """Works a node out if its inputs are known; says whether it did.

    1. Shape and Size of anything.
    2. Every op whose inputs are all constants, by ONNX's reference implementation.

    Raises:
        OnnxError: The op is random, or cannot be worked out.
    """
    if node.op in ("Shape", "Size"):
        shape = reader.shape(node.inputs[0])
        value = np.array(shape, dtype=np.int64)
        value = value[node.get("start", 0) : node.get("end", len(shape))] if node.op == "Shape" else value.prod()
        reader.constants[node.outputs[0]] = value
        return True
    if not all(reader.is_constant(name) for name in node.inputs):
        return False
    if node.op in _RANDOM:
        raise node.refuse("is random; networks that give the same answer twice can be read")
    for name, array in zip(node.outputs, _results(reader, proto, node), strict=False):
        if name:
            reader.constants[name] = array
    return True


def _results(reader: Reader, proto: NodeProto, node: Node) -> list[Array]:
    given = {name: reader.constants[reader.resolved(name)] for name in node.inputs if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.outputs if name]
    graph = helper.make_graph([proto], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.version)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, given)]
    except Exception as error:  # the reference implementation raises many unrelated classes
        text = " ".join(str(error).split())
        raise OnnxError(
            f"{node} has constant inputs but cannot be worked out: {type(error).__name__}: {text}"
        ) from error
