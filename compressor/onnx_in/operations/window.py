"""Pads, strides and dilations of ops that slide a window over an image, in torch's terms."""

from collections.abc import Sequence
from dataclasses import dataclass

from compressor.onnx_in.reader import Node

__all__ = ["Window", "torch_pads", "window"]


@dataclass(frozen=True)
class Window:
    """A sliding window; all but `rank` have one number per dimension of the image.

    Attributes:
        kernel: Its size.
        stride: Its steps.
        dilation: Distance of its taps.
        before: Positions added in front.
        after: Positions added behind.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def is_even(self) -> bool:
        """As much is added in front as behind: torch's layers can do it themselves."""
        return self.before == self.after


def window(node: Node, kernel: Sequence[int], image: Sequence[int]) -> Window:
    """Returns the window of a node.

    Args:
        node: Conv, a pooling or the like.
        kernel: Its kernel's size.
        image: Height and width of what it reads.

    Raises:
        OnnxError: `auto_pad` has a value that ONNX does not know.
    """
    rank = len(kernel)
    stride = tuple(int(s) for s in node.get("strides", (1,) * rank))
    dilation = tuple(int(d) for d in node.get("dilations", (1,) * rank))
    pads = tuple(int(p) for p in node.get("pads", (0,) * (2 * rank)))
    before, after = pads[:rank], pads[rank:]
    auto = node.get("auto_pad", "NOTSET")
    if auto == "VALID":
        before = after = (0,) * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-size // step) - 1) * step + (taps - 1) * wide + 1 - size, 0)
            for size, taps, step, wide in zip(image, kernel, stride, dilation, strict=True)
        ]
        smaller, larger = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (smaller, larger) if auto == "SAME_UPPER" else (larger, smaller)
    elif auto != "NOTSET":
        raise node.refuse(f"has auto_pad {auto!r}; ONNX knows NOTSET, VALID, SAME_UPPER and SAME_LOWER")
    return Window(tuple(int(k) for k in kernel), stride, dilation, before, after)


def torch_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Returns pads as `torch.nn.functional.pad` wants them: last dimension first, in front and behind."""
    return [pad for pair in zip(reversed(before), reversed(after), strict=True) for pad in pair]
