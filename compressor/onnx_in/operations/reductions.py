"""Means, sums and extremes over dimensions."""

from collections.abc import Callable

from compressor.onnx_in.reader import Node, Reader

__all__ = ["REDUCTION_RULES"]

# Opset in which the dimensions became an input.
_AXES_AS_INPUT = {"ReduceSum": 13}
_AXES_AS_INPUT_OTHERS = 18


def _reduction(function: str) -> Callable[[Reader, Node], None]:
    def rule(reader: Reader, node: Node) -> None:
        since = _AXES_AS_INPUT.get(node.op, _AXES_AS_INPUT_OTHERS)
        axes = reader.constant(node, 1) if node.version >= since else node.get("axes")
        rank = len(reader.shape(node.inputs[0]))
        dims = sorted({int(axis) % rank for axis in axes}) if axes is not None else []
        if not dims:
            if node.get("noop_with_empty_axes", 0):
                reader.alias(node.outputs[0], node.inputs[0])
                return
            dims = list(range(rank))
        if 0 in dims:
            raise node.refuse("runs over the images of a batch; each image has to be by itself")
        reader.function(node, function, dims=dims, keepdim=bool(node.get("keepdims", 1)))

    return rule


REDUCTION_RULES: dict[str, Callable[[Reader, Node], None]] = {
    "ReduceMean": _reduction("reduce_mean"),
    "ReduceSum": _reduction("reduce_sum"),
    "ReduceMax": _reduction("reduce_amax"),
    "ReduceMin": _reduction("reduce_amin"),
    "ReduceProd": _reduction("reduce_prod"),
    "ReduceL2": _reduction("reduce_norm"),
}
