"""Target `tensorrt`: standard ops only, fixed shapes or one optimisation profile, proved by a lint.

FBS layers are spelled out: for one sample per run the winners' kernels are gathered and only they are convolved; for
any other batch, and in int8, losers are multiplied by 0 (`exporters.passes.spell_out_fbs`).
"""

import shlex
from pathlib import PurePath
from typing import ClassVar

from onnx import ModelProto

from exporters.passes.fold_batch_norm import fold_batch_norm
from exporters.passes.fold_constants import fold_constants
from exporters.passes.lower_sparse_conv import LowerSparseConv
from exporters.passes.name_tensors import name_tensors
from exporters.passes.spell_out_fbs import gather_fbs, mask_fbs
from exporters.targets.onnx import Onnx, Pass
from exporters.tensorrt_lint import lint_tensorrt

__all__ = ["Tensorrt"]

# Channels in multiples of these fill tensor cores: NVIDIA, "Deep Learning Performance: Tensor Core requirements",
# 16 bytes of half precision, and 32 values of int8.
_CHANNEL_STEP, _INT8_CHANNEL_STEP = 8, 32
_SHOWN = 3
# Smallest, best and largest batch of the one optimisation profile of a file with a dynamic batch.
_PROFILE = (1, 8, 32)


class Tensorrt(Onnx):
    """See the module; integer activations are symmetric."""

    symmetric: ClassVar[bool] = True
    own_ops: ClassVar[bool] = False

    @classmethod
    def passes(
        cls,
        *,
        one_sample: bool,
        whole_weights: bool = False,
        int8: bool = False,
        lower_sparse_conv: LowerSparseConv | None = None,
    ) -> tuple[Pass, ...]:
        """As the base; FBS layers gathered for one sample, masked otherwise; pruned kernels at most narrowed."""
        spell_out = gather_fbs if one_sample else mask_fbs
        narrow = lower_sparse_conv or LowerSparseConv("never")
        return (fold_constants, fold_batch_norm, narrow, spell_out, fold_constants, name_tensors)

    @classmethod
    def problems(cls, model: ModelProto) -> list[str]:
        """What `exporters.tensorrt_lint` finds."""
        return lint_tensorrt(model)

    @classmethod
    def notes(cls, model: ModelProto, *, int8: bool) -> tuple[str, ...]:
        """Convolutions whose number of outputs does not fill tensor cores."""
        step = _INT8_CHANNEL_STEP if int8 else _CHANNEL_STEP
        ragged = [f"{name} ({count})" for name, count in _widths(model) if count % step]
        if not ragged:
            return ()
        more = "" if len(ragged) <= _SHOWN else ", …"
        target = "tensorrt-int8" if int8 else "tensorrt"
        return (
            f"{len(ragged)} convolutions have widths that are no multiple of {step} "
            f"({', '.join(ragged[:_SHOWN])}{more}) and leave tensor cores partly idle; prune with --align {target}",
        )

    @classmethod
    def metadata(cls, model: ModelProto, file_name: str) -> dict[str, object]:
        """The command that builds an engine, `trtexec`; networks are strongly typed, so precision is in the file."""
        words = ["trtexec", f"--onnx={file_name}", f"--saveEngine={PurePath(file_name).stem}.engine", "--stronglyTyped"]
        held = {tensor.name for tensor in model.graph.initializer}
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            if value.name in held or not dims or dims[0].HasField("dim_value"):
                continue
            rest = "x".join(str(dim.dim_value) for dim in list(dims)[1:])
            for option, size in zip(("min", "opt", "max"), _PROFILE, strict=True):
                words.append(f"--{option}Shapes={value.name}:{size}x{rest}")
        return {"trtexec": shlex.join(words)}


def _widths(model: ModelProto) -> list[tuple[str, int]]:
    """Name and number of outputs of each convolution whose kernels are constant."""
    kernels = {tensor.name: int(tensor.dims[0]) for tensor in model.graph.initializer if len(tensor.dims) > 2}
    behind = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = behind.get(node.input[1], node.input[1])
            if weight in kernels:
                found.append((node.name, kernels[weight]))
    return found
