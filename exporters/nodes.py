"""What a node of an ONNX graph says."""

from typing import Any

from onnx import NodeProto, helper

from exporters import opset

__all__ = ["attributes_of", "is_op"]


def attributes_of(node: NodeProto) -> dict[str, Any]:  # Any: ONNX attributes
    """Returns name -> value, as the node spells them out; texts as bytes."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def is_op(node: NodeProto, *ops: opset.Op) -> bool:
    """Whether the node is one of these ops of our domain."""
    return bool(node.domain == opset.DOMAIN) and any(node.op_type == op.name for op in ops)
