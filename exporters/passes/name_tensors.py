"""Last of the passes: every tensor is called after the node that makes or alone reads it."""

import collections

import onnx_graphsurgeon as gs

from exporters import opset

__all__ = ["name_tensors"]

_ROLES = {
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "MatMul": ("", "weight"),
    opset.SPARSE_CONV.name: ("", "weight", "places", "bias"),
    "BatchNormalization": ("", "scale", "bias", "mean", "var"),
    opset.LINEAR.name: ("", "", "weight", "bias", "weight_steps"),
    opset.DEPTHWISE_CONV.name: ("", "channels", "weight", "bias"),
    opset.FBS_CONV.name: (
        "",
        "channels",
        "weight",
        "shift",
        "saliency_weight",
        "saliency_bias",
        "post_shift",
        "left_out",
        "means",
        "weight_steps",
        "saliency_weight_steps",
    ),
}
_ROLES[opset.FBS_CONV_DEPTHWISE.name] = (
    *_ROLES[opset.FBS_CONV.name][:-5],
    "depthwise_weight",
    "depthwise_bias",
    *_ROLES[opset.FBS_CONV.name][-5:],
)
_RESULTS = {
    opset.FBS_CONV.name: ("", ".winners", ".means"),
    opset.FBS_CONV_DEPTHWISE.name: ("", ".winners", ".means"),
    opset.UNPACK_ADD.name: ("", ".means"),
}


def name_tensors(graph: gs.Graph) -> int:
    """Changes `graph`: readable names that depend on the graph alone; returns how many tensors got one.

    1. Graph inputs: input (input_2 …); graph outputs: output (output_2 …).
    2. The first output of a node: the node's name; an FBS layer's J: name.winners; its M and an
       UnpackAdd's U: name.means; others: name.1 ….
    3. A constant that one node reads: node.weight, node.bias …, or node.<position>; shared ones: their own
       name.
    """
    taken: collections.Counter[str] = collections.Counter()

    def give(tensor: gs.Tensor, name: str) -> None:
        taken[name] += 1
        tensor.name = name if taken[name] == 1 else f"{name}_{taken[name]}"

    named = set()
    for tensors, word in ((graph.inputs, "input"), (graph.outputs, "output")):
        for tensor in tensors:
            give(tensor, word)
            named.add(id(tensor))
    used: collections.Counter[str] = collections.Counter()
    for node in graph.nodes:
        used[node.name] += 1
        node.name = node.name if used[node.name] == 1 else f"{node.name}_{used[node.name]}"
        for position, tensor in enumerate(node.outputs):
            if id(tensor) in named or tensor.is_empty():
                continue
            results = _RESULTS.get(node.op, ())
            suffix = results[position] if position < len(results) else f".{position}" * bool(position)
            give(tensor, node.name + suffix)
            named.add(id(tensor))
    for node in graph.nodes:
        roles = _ROLES.get(node.op, ())
        for position, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant) or id(tensor) in named:
                continue
            role = roles[position] if position < len(roles) else str(position)
            give(tensor, f"{node.name}.{role}" if len(tensor.outputs) == 1 else tensor.name.split("#")[0])
            named.add(id(tensor))
    return len(named)
