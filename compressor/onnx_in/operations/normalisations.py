"""Normalisations that are in the file; most exporters have folded batch norms into the convolutions before them."""

from collections.abc import Callable

import numpy as np

from compressor.onnx_in.reader import Array, Node, Reader

__all__ = ["NORMALISATION_RULES"]


def _batch_norm(reader: Reader, node: Node) -> None:
    if node.get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise node.refuse("was exported in training mode; export the network in evaluation mode")
    scale, shift, mean, variance = (_known(reader, node, place) for place in (1, 2, 3, 4))
    rank = len(reader.shape(node.inputs[0]))
    if rank not in (2, 3, 4):
        raise node.refuse(f"reads a tensor of {rank} dimensions; batch norms over 2, 3 and 4 can be read")
    settings = {
        "num_features": len(scale),
        "eps": float(node.get("epsilon", 1e-5)),
        "momentum": 1.0 - float(node.get("momentum", 0.9)),
    }
    weights = {
        "weight": scale,
        "bias": shift,
        "running_mean": mean,
        "running_var": variance,
        "num_batches_tracked": np.array(0, dtype=np.int64),
    }
    kind = "batch_norm2d" if rank == 4 else "batch_norm1d"
    reader.layer(node, kind, settings, weights=weights, weight_name=node.inputs[1])


def _instance_norm(reader: Reader, node: Node) -> None:
    scale, shift = _known(reader, node, 1), _known(reader, node, 2)
    if len(reader.shape(node.inputs[0])) != 4:
        raise node.refuse("reads no image; instance norms over (N, C, H, W) can be read")
    settings = {"num_features": len(scale), "eps": float(node.get("epsilon", 1e-5)), "affine": True}
    reader.layer(
        node, "instance_norm2d", settings, weights={"weight": scale, "bias": shift}, weight_name=node.inputs[1]
    )


def _group_norm(reader: Reader, node: Node) -> None:
    groups, channels = int(node.get("num_groups")), reader.shape(node.inputs[0])[1]
    scale, shift = _known(reader, node, 1), _known(reader, node, 2)
    if len(scale) != channels:  # before opset 21: one number per group
        scale, shift = (np.repeat(values, channels // groups) for values in (scale, shift))
    settings = {"num_groups": groups, "num_channels": channels, "eps": float(node.get("epsilon", 1e-5))}
    reader.layer(node, "group_norm", settings, weights={"weight": scale, "bias": shift}, weight_name=node.inputs[1])


def _layer_norm(reader: Reader, node: Node) -> None:
    if len([name for name in node.outputs if name]) > 1:
        raise node.refuse("hands out its statistics as well; layer norms with one output can be read")
    scale, shift = _known(reader, node, 1), reader.constant(node, 2)
    shape = reader.shape(node.inputs[0])
    sizes = [int(size) for size in shape[int(node.get("axis", -1)) % len(shape) :]]
    settings = {"normalized_shape": sizes, "eps": float(node.get("epsilon", 1e-5)), "bias": shift is not None}
    weights = {"weight": np.broadcast_to(scale, sizes)}
    if shift is not None:
        weights["bias"] = np.broadcast_to(shift, sizes)
    reader.layer(node, "layer_norm", settings, weights=weights, weight_name=node.inputs[1])


def _local_response_norm(reader: Reader, node: Node) -> None:
    settings = {
        "size": int(node.get("size")),
        "alpha": float(node.get("alpha", 1e-4)),
        "beta": float(node.get("beta", 0.75)),
        "k": float(node.get("bias", 1.0)),
    }
    reader.layer(node, "local_response_norm", settings)


def _known(reader: Reader, node: Node, place: int) -> Array:
    values = reader.constant(node, place)
    assert values is not None  # ONNX's checker has seen to it
    return values


NORMALISATION_RULES: dict[str, Callable[[Reader, Node], None]] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "LRN": _local_response_norm,
}
