"""Target `onnx`: one file that any ONNX Runtime runs, with FBS layers as ops of domain `compress`."""

from collections.abc import Callable
from typing import Any, ClassVar

from exporters import opset
from exporters.passes.fold_batch_norm import fold_batch_norm
from exporters.passes.fold_constants import fold_constants
from exporters.passes.fuse_activation import fuse_activation
from exporters.passes.lower_fbs_conv import lower_fbs_conv
from exporters.passes.name_tensors import name_tensors
from exporters.passes.push_transpose_down import push_transpose_down
from exporters.passes.push_unpack_down import push_unpack_down

__all__ = ["Onnx"]

Pass = Callable[[Any], int]
"""Takes an onnx-graphsurgeon graph (which ships no types), changes it, returns how often it applied."""


class Onnx:
    """The list of passes and the standard opset."""

    default_opset: ClassVar[int] = opset.ONNX_OPSET
    passes: ClassVar[tuple[Pass, ...]] = (
        fold_constants,
        fold_batch_norm,
        lower_fbs_conv,
        push_transpose_down,
        push_unpack_down,
        fuse_activation,
        fold_constants,
        name_tensors,
    )
