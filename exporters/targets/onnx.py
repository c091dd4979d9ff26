"""Target `onnx`: one file that any ONNX Runtime runs, with FBS layers as ops of domain `compress`."""

from collections.abc import Callable
from typing import Any, ClassVar

from onnx import ModelProto

from exporters import opset
from exporters.passes.fold_batch_norm import fold_batch_norm
from exporters.passes.fold_constants import fold_constants
from exporters.passes.fuse_activation import fuse_activation
from exporters.passes.fuse_average import fuse_average
from exporters.passes.fuse_depthwise import fuse_depthwise
from exporters.passes.fuse_linear import fuse_linear
from exporters.passes.fuse_max_pool import fuse_max_pool
from exporters.passes.fuse_residual import fuse_residual, fuse_summand
from exporters.passes.keep_depthwise_packed import keep_depthwise_packed
from exporters.passes.lay_out_input import lay_out_input
from exporters.passes.lower_fbs_conv import lower_fbs_conv
from exporters.passes.lower_sparse_conv import LowerSparseConv
from exporters.passes.name_tensors import name_tensors
from exporters.passes.push_transpose_down import push_transpose_down
from exporters.passes.push_unpack_down import push_unpack_down
from exporters.passes.share_means import share_means
from exporters.passes.store_bytes import store_byte_predictors, store_bytes
from exporters.passes.store_halves import store_half_predictors, store_half_weights

__all__ = ["Onnx", "Pass"]

Pass = Callable[[Any], int]
"""Takes an onnx-graphsurgeon graph (which ships no types), changes it, returns how often it applied."""


class Onnx:
    """The list of passes and the standard opset; a target that needs more derives from it.

    Attributes:
        default_opset: Of the standard ops.
        symmetric: Integer activations have the zero point 0.
        own_ops: Its files may hold ops of domain `compress`.
    """

    default_opset: ClassVar[int] = opset.ONNX_OPSET
    symmetric: ClassVar[bool] = False
    own_ops: ClassVar[bool] = True

    @classmethod
    def passes(
        cls,
        *,
        one_sample: bool,
        whole_weights: bool = False,
        int8: bool = False,
        lower_sparse_conv: LowerSparseConv | None = None,
    ) -> tuple[Pass, ...]:
        """The rewrites in order.

        Args:
            one_sample: The file runs one sample at a time and its kernels may be computed.
            whole_weights: Weights become integers, which only standard ops read.
            int8: FBS layers are to work on bytes, for which there are fewer ops.
            lower_sparse_conv: The pass for pruned convolutions, which keeps what it decided; None takes a new one.
        """
        return (
            fold_constants,
            fold_batch_norm,
            lower_sparse_conv or LowerSparseConv(),
            lower_fbs_conv,
            push_transpose_down,
            push_unpack_down,
            *(() if whole_weights else (keep_depthwise_packed,)),
            fuse_activation,
            fuse_residual,
            *(() if whole_weights else (fuse_linear,)),
            *(() if int8 else (lay_out_input, fuse_max_pool)),
            fold_constants,
            *(() if whole_weights else (store_byte_predictors if int8 else store_bytes,)),
            *(() if whole_weights else (store_half_predictors,)),
            *(
                ()
                if whole_weights or int8
                else (store_half_weights, fuse_average, fuse_depthwise, fuse_summand, share_means)
            ),
            name_tensors,
        )

    @classmethod
    def problems(cls, model: ModelProto) -> list[str]:
        """Everything that keeps the finished model from running there, one line each; empty is good."""
        return []

    @classmethod
    def notes(cls, model: ModelProto, *, int8: bool) -> tuple[str, ...]:
        """What a user should know of the finished model, one line each."""
        return ()

    @classmethod
    def metadata(cls, model: ModelProto, file_name: str) -> dict[str, object]:
        """Entries of the file's metadata that belong to the target."""
        return {}
