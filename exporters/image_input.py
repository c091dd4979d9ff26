"""Preprocessing inside the file: an image as a camera or a decoder gives it, uint8 and channels last, goes in.

    x = float(image) in NCHW;  resize to `resized` and cut `size` out of the middle, where `source` is given;
    y = x / (255 std) - mean / std per channel

Resizing is bilinear with antialias: with s = in / out, f = max(s, 1) and c = (i + 1/2) s, output i is the mean of
inputs j weighted by max(0, 1 - |j + 1/2 - c| / f), the triangle filter of Pillow, which torchvision follows. The
weights stand in two matrices, Rv x Rh^T, from which the rows outside the cut are left out. Resize nodes are not used:
TensorRT's have no antialias, and ONNX Runtime 1.31's differ from torch by up to 0.3 of the range on black and white
pixels.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporters.errors import ExportError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from torch import Tensor

__all__ = ["ImageInput", "prepend_image_input", "resize_matrix", "torch_image_input"]

Matrix = npt.NDArray[np.float32]

_NAME = "preprocessing"


@dataclass(frozen=True)
class ImageInput:
    """How a uint8 image (H, W, C) becomes the network's input.

    Attributes:
        mean: One value per channel, on the 0-1 scale.
        std: One value per channel, on the 0-1 scale.
        size: (channels, height, width) of the network's input.
        source: (height, width) of the images; None where they have the network's size and are not resized.
        resized: (height, width) before `size` is cut out of the middle; None without `source`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int, int]
    source: tuple[int, int] | None = None
    resized: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Checks that the numbers fit together.

        Raises:
            ExportError: They do not.
        """
        channels, height, width = self.size
        if len(self.mean) != channels or len(self.std) != channels or any(value <= 0 for value in self.std):
            raise ExportError(
                f"preprocessing with mean {self.mean} and std {self.std} does not fit {channels} channels"
            )
        if (self.source is None) != (self.resized is None):
            raise ExportError("images of another size need both their size and the size to resize to")
        if self.resized is not None and (self.resized[0] < height or self.resized[1] < width):
            raise ExportError(f"{height}x{width} cannot be cut out of images resized to {self.resized}")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that go in."""
        return self.source or (self.size[1], self.size[2])

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Plain lists under the attributes' names."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "size": list(self.size),
            "source": None if self.source is None else list(self.source),
            "resized": None if self.resized is None else list(self.resized),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ImageInput":  # Any: JSON values
        """What `to_json` wrote."""
        channels, height, width = values["size"]
        pairs = {}
        for name in ("source", "resized"):
            pair = values.get(name)
            pairs[name] = None if pair is None else (int(pair[0]), int(pair[1]))
        return cls(tuple(values["mean"]), tuple(values["std"]), (channels, height, width), **pairs)


def resize_matrix(size: int, resized: int, *, start: int = 0, count: int | None = None) -> Matrix:
    """Returns rows `start` to `start + count` of the matrix (resized, size) that resizes one axis.

    >>> (7 * resize_matrix(4, 2)).round(3).tolist()
    [[3.0, 3.0, 1.0, 0.0], [0.0, 1.0, 3.0, 3.0]]
    """
    count = resized if count is None else count
    step = size / resized
    reach = max(step, 1.0)
    centers = (np.arange(start, start + count) + 0.5)[:, None] * step
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(size)[None] + 0.5 - centers) / reach)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def prepend_image_input(graph: "gs.Graph", image: ImageInput) -> None:
    """Changes `graph`, of one input (N, C, H, W): it now takes uint8 images (N, H, W, C).

    Args:
        graph: Its input keeps its name; the tensor behind the preprocessing gets another one.
        image: What to do.

    Raises:
        ExportError: The network takes inputs of another size.
    """
    # With torch's exporter, part of the training install.
    import onnx_graphsurgeon as gs

    from exporters.surgery import NHWC_TO_NCHW, add_node, add_transpose

    old = graph.inputs[0]
    name, batch = old.name, old.shape[0]
    channels = image.size[0]
    if list(old.shape[1:]) != list(image.size):
        raise ExportError(f"the network takes {tuple(old.shape[1:])}, its preprocessing gives {image.size}")
    old.name = f"{_NAME}/output"
    graph.inputs[0] = gs.Variable(name, np.uint8, [batch, *image.image_size, channels])

    def constant(role: str, values: npt.NDArray[np.generic]) -> gs.Constant:
        return gs.Constant(f"{_NAME}.{role}", values)

    cast = add_node(
        graph,
        "Cast",
        [graph.inputs[0]],
        name=f"{_NAME}/Cast",
        attrs={"to": 1},
        shape=[batch, *image.image_size, channels],
    )
    shape = [batch, channels, *image.image_size]
    x = add_transpose(graph, cast.outputs[0], NHWC_TO_NCHW, name=_NAME, shape=shape).outputs[0]
    if image.resized is not None:
        x = _resized(graph, x, image)
    mean, std = np.asarray(image.mean, np.float64), np.asarray(image.std, np.float64)
    factor = np.asarray(1.0 / (255.0 * std), np.float32).reshape(1, -1, 1, 1)
    shift = np.asarray(-mean / std, np.float32).reshape(1, -1, 1, 1)
    scaled = add_node(
        graph, "Mul", [x, constant("factor", factor)], name=f"{_NAME}/Mul", shape=[batch, *image.size]
    ).outputs[0]
    add_node(graph, "Add", [scaled, constant("shift", shift)], name=f"{_NAME}/Add", outputs=[old])
    graph.toposort()


def _resized(graph: "gs.Graph", x: "gs.Tensor", image: ImageInput) -> "gs.Tensor":
    import onnx_graphsurgeon as gs  # as in prepend_image_input

    from exporters.surgery import add_node

    assert image.resized is not None
    batch, channels = x.shape[:2]
    _, height, width = image.size
    top, left = _corner(image)
    rows = resize_matrix(image.image_size[0], image.resized[0], start=top, count=height)
    columns = resize_matrix(image.image_size[1], image.resized[1], start=left, count=width)
    vertical = gs.Constant(f"{_NAME}.rows", rows)
    horizontal = gs.Constant(f"{_NAME}.columns", np.ascontiguousarray(columns.T))
    shape = [batch, channels, height, image.image_size[1]]
    y = add_node(graph, "MatMul", [vertical, x], name=f"{_NAME}/rows", shape=shape).outputs[0]
    narrow = add_node(graph, "MatMul", [y, horizontal], name=f"{_NAME}/columns", shape=[batch, *image.size])
    resized: gs.Tensor = narrow.outputs[0]
    return resized


def _corner(image: ImageInput) -> tuple[int, int]:
    """Where the middle begins, rounded as torchvision's CenterCrop has it."""
    assert image.resized is not None
    return round((image.resized[0] - image.size[1]) / 2.0), round((image.resized[1] - image.size[2]) / 2.0)


def torch_image_input(images: "Tensor", image: ImageInput) -> "Tensor":
    """Returns what the prepended graph computes, in torch: uint8 (N, H, W, C) to float32 (N, C, H', W')."""
    # Heavy; a device that only runs files has no torch.
    import torch
    from torch.nn.functional import interpolate

    x = images.permute(0, 3, 1, 2).float()
    if image.resized is not None:
        top, left = _corner(image)
        x = interpolate(x, size=image.resized, mode="bilinear", antialias=True, align_corners=False)
        x = x[:, :, top : top + image.size[1], left : left + image.size[2]]
    mean = torch.tensor(image.mean, device=x.device).view(1, -1, 1, 1)
    std = torch.tensor(image.std, device=x.device).view(1, -1, 1, 1)
    return (x / 255 - mean) / std
