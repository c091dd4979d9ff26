"""Conv and ConvTranspose."""

from collections.abc import Callable

import numpy as np

from compressor.onnx_in.operations.window import torch_pads, window
from compressor.onnx_in.reader import Array, Node, Reader

__all__ = ["WINDOW_RULES"]


def _conv(reader: Reader, node: Node) -> None:
    """Uneven pads become a step of their own."""
    weight, bias = _weights(reader, node)
    rank = weight.ndim - 2
    if rank not in (1, 2):
        raise node.refuse(f"has {rank} dimensions; convolutions of 1 and 2 dimensions can be read")
    seen = window(node, weight.shape[2:], reader.shape(node.inputs[0])[2:])
    source = node.inputs[0]
    if not seen.is_even:
        pads = torch_pads(seen.before, seen.after)
        source = reader.function(
            node, "pad", outputs=[reader.fresh(node, "padded")], pads=pads, mode="constant", value=0.0
        )
    groups = int(node.get("group", 1))
    reader.layer(
        node,
        f"conv{rank}d",
        {
            "in_channels": weight.shape[1] * groups,
            "out_channels": weight.shape[0],
            "kernel_size": list(seen.kernel),
            "stride": list(seen.stride),
            "padding": list(seen.before) if seen.is_even else [0] * rank,
            "dilation": list(seen.dilation),
            "groups": groups,
            "bias": bias is not None,
        },
        source=source,
        weights={"weight": weight, **({} if bias is None else {"bias": bias})},
        weight_name=node.inputs[1],
    )


def _conv_transpose(reader: Reader, node: Node) -> None:
    weight, bias = _weights(reader, node)
    if weight.ndim != 4:
        raise node.refuse(f"has {weight.ndim - 2} dimensions; transposed convolutions of 2 dimensions can be read")
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or node.get("output_shape") is not None:
        raise node.refuse("has auto_pad or output_shape; export it with pads and output_padding")
    seen = window(node, weight.shape[2:], reader.shape(node.inputs[0])[2:])
    if not seen.is_even:
        raise node.refuse(f"takes {seen.before} off in front and {seen.after} behind; torch takes off the same")
    groups = int(node.get("group", 1))
    reader.layer(
        node,
        "conv_transpose2d",
        {
            "in_channels": weight.shape[0],
            "out_channels": weight.shape[1] * groups,
            "kernel_size": list(seen.kernel),
            "stride": list(seen.stride),
            "padding": list(seen.before),
            "output_padding": [int(p) for p in node.get("output_padding", (0, 0))],
            "groups": groups,
            "bias": bias is not None,
            "dilation": list(seen.dilation),
        },
        weights={"weight": weight, **({} if bias is None else {"bias": bias})},
        weight_name=node.inputs[1],
    )


def _weights(reader: Reader, node: Node) -> tuple[Array, Array | None]:
    weight = reader.constant(node, 1)
    assert weight is not None  # ONNX's checker has seen to it
    bias = reader.constant(node, 2)
    # A bias of zeros is how some exporters write that there is none, but a slim network must not grow one either.
    return weight, None if bias is None else np.asarray(bias)


WINDOW_RULES: dict[str, Callable[[Reader, Node], None]] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
