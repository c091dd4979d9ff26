"""Pooling over windows and over whole images."""

import math
from collections.abc import Callable

from compressor.onnx_in.operations.window import Window, torch_pads, window
from compressor.onnx_in.reader import Node, Reader

__all__ = ["POOLING_RULES"]


def _max_pool(reader: Reader, node: Node) -> None:
    """Pads that torch's layer cannot take are a step of their own, filled with -inf."""
    if len([name for name in node.outputs if name]) > 1:
        raise node.refuse("hands out the places of the largest values as well; MaxPool with one output can be read")
    seen, rank = _window(reader, node)
    source = node.inputs[0]
    fits = seen.is_even and all(2 * pad <= size for pad, size in zip(seen.before, seen.kernel, strict=True))
    if not fits:
        pads = torch_pads(seen.before, seen.after)
        source = reader.function(
            node, "pad", outputs=[reader.fresh(node, "padded")], pads=pads, mode="constant", value=-math.inf
        )
    settings = {
        "kernel_size": list(seen.kernel),
        "stride": list(seen.stride),
        "padding": list(seen.before) if fits else [0] * rank,
        "dilation": list(seen.dilation),
        "ceil_mode": bool(node.get("ceil_mode", 0)),
    }
    reader.layer(node, f"max_pool{rank}d", settings, source=source)


def _average_pool(reader: Reader, node: Node) -> None:
    seen, rank = _window(reader, node)
    if any(wide != 1 for wide in seen.dilation):
        raise node.refuse("has dilations; average pooling without them can be read")
    counts, ceil = bool(node.get("count_include_pad", 0)), bool(node.get("ceil_mode", 0))
    source, padding = node.inputs[0], list(seen.before)
    if not seen.is_even or any(2 * pad > size for pad, size in zip(seen.before, seen.kernel, strict=True)):
        pads = torch_pads(seen.before, seen.after)
        if not counts:
            if rank != 2:
                raise node.refuse("has uneven pads; average pooling of images, or with even pads, can be read")
            kernel, stride = list(seen.kernel), list(seen.stride)
            reader.function(node, "avg_pool_of_inside", pads=pads, kernel_size=kernel, stride=stride, ceil_mode=ceil)
            return
        source = reader.function(
            node, "pad", outputs=[reader.fresh(node, "padded")], pads=pads, mode="constant", value=0.0
        )
        padding = [0] * rank
    settings = {
        "kernel_size": list(seen.kernel),
        "stride": list(seen.stride),
        "padding": padding,
        "ceil_mode": ceil,
        "count_include_pad": counts,
    }
    reader.layer(node, f"avg_pool{rank}d", settings, source=source)


def _global(kind: str) -> Callable[[Reader, Node], None]:
    def rule(reader: Reader, node: Node) -> None:
        rank = len(reader.shape(node.inputs[0])) - 2
        if rank != 2:
            raise node.refuse(f"pools over {rank} dimensions; 2 can be read")
        reader.layer(node, kind, {"output_size": 1})

    return rule


def _window(reader: Reader, node: Node) -> tuple[Window, int]:
    kernel = [int(size) for size in node.get("kernel_shape")]
    if len(kernel) not in (1, 2):
        raise node.refuse(f"pools over {len(kernel)} dimensions; 1 and 2 can be read")
    return window(node, kernel, reader.shape(node.inputs[0])[2:]), len(kernel)


POOLING_RULES: dict[str, Callable[[Reader, Node], None]] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global("global_avg_pool2d"),
    "GlobalMaxPool": _global("global_max_pool2d"),
}
