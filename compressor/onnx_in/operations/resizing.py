"""Resize, and channels that become positions or the other way round."""

from collections.abc import Callable

from compressor.onnx_in.reader import Array, Node, Reader

__all__ = ["RESIZING_RULES"]

Rule = Callable[[Reader, Node], None]

# How torch's modes place the samples; `half_pixel` and `pytorch_half_pixel` differ at a size of one only.
_PLACES = {
    "nearest": ("asymmetric",),
    "linear": ("half_pixel", "pytorch_half_pixel", "align_corners"),
    "cubic": ("half_pixel", "pytorch_half_pixel", "align_corners"),
}
_TORCH_MODES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}


def _resize(reader: Reader, node: Node) -> None:
    old = reader.shape(node.inputs[0])
    scales, sizes = _wanted(reader, node)
    mode = node.get("mode", "nearest")
    place = node.get("coordinate_transformation_mode", "half_pixel" if node.version >= 11 else "asymmetric")
    if len(old) != 4 or mode not in _TORCH_MODES:
        raise node.refuse(f"resizes {len(old)} dimensions by mode {mode!r}; images by {', '.join(_TORCH_MODES)} can be")
    if node.get("antialias", 0) or node.get("axes") is not None:
        raise node.refuse("has antialias or axes; Resize without them can be read")
    whole = scales is not None and all(float(scale).is_integer() for scale in scales)
    nearest_by_floor = mode == "nearest" and (node.get("nearest_mode", "round_prefer_floor") == "floor" or whole)
    allowed = (*_PLACES[mode], "half_pixel") if mode == "nearest" and whole else _PLACES[mode]
    if place not in allowed or (mode == "nearest" and node.version >= 11 and not nearest_by_floor):
        raise node.refuse(f"samples at {place!r}; of mode {mode!r} {', '.join(allowed)} can be read")
    align = None if mode == "nearest" else place == "align_corners"
    if scales is not None:
        if [float(s) for s in scales[:2]] != [1.0, 1.0]:
            raise node.refuse("resizes images of a batch, or channels; height and width can be resized")
        scale = [float(s) for s in scales[2:]]
        reader.function(node, "resize", scale=scale, mode=_TORCH_MODES[mode], align_corners=align)
        return
    assert sizes is not None
    if tuple(int(size) for size in sizes[:2]) != old[:2]:
        raise node.refuse("resizes images of a batch, or channels; height and width can be resized")
    size = [int(size) for size in sizes[2:]]
    reader.function(node, "resize_to", size=size, mode=_TORCH_MODES[mode], align_corners=align)


def _wanted(reader: Reader, node: Node) -> tuple[Array | None, Array | None]:
    """Scales or sizes; ONNX has had three ways to say them."""
    if node.op == "Upsample" and node.version < 9:
        return node.get("scales"), None
    if node.version < 11:
        return reader.constant(node, 1), None
    scales, sizes = reader.constant(node, 2), reader.constant(node, 3)
    return (scales if scales is not None and scales.size else None), sizes


def _depth_to_space(reader: Reader, node: Node) -> None:
    block = int(node.get("blocksize"))
    by_column = node.get("mode", "DCR") == "CRD"
    reader.function(node, "pixel_shuffle" if by_column else "depth_to_space", block=block)


def _space_to_depth(reader: Reader, node: Node) -> None:
    reader.function(node, "space_to_depth", block=int(node.get("blocksize")))


RESIZING_RULES: dict[str, Rule] = {
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
