"""Rules of operators that compute on values but leave channels where they are, and of all that nobody knows.

1. Elementwise: tensors that meet have their channels joined; a single channel spread over several is frozen.
2. Pooling and resizing: channels stay, positions change.
3. Reductions (mean, softmax, …): fine over positions; channels reduced over are frozen.
4. Tensors made in `forward`: constants follow the cut, or else (`Step.flexible`) freeze what they meet; those whose
   values depend on the place (`linspace`, `rand`) always freeze it.
5. Anything else freezes its inputs and outputs and keeps its name as the reason.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from compressor.graph.ids import Ids, Vector
from compressor.graph.walk import Step, WeightRef, op_name

__all__ = ["CONSTANT_MAKERS", "VALUE_RULES", "elementwise", "is_elementwise", "unknown"]

_ELEMENTWISE = [
    "contiguous", "to", "_to_copy", "type_as", "detach", "detach_", "alias", "lift_fresh_copy", "dropout", "dropout_",
    "feature_dropout", "feature_dropout_", "alpha_dropout", "feature_alpha_dropout", "hardswish", "hardswish_",
    "log_sigmoid", "rsub", "where", "masked_fill", "masked_fill_", "copy_", "fill_", "zero_", "zeros_like",
    "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "float", "double", "half", "relu6_",
    "hardtanh_", "clamp_", "add_", "sub_", "mul_", "div_", "bernoulli", "celu_", "leaky_relu_", "elu_", "nan_to_num",
    "bernoulli_",
]  # fmt: skip
_POSITIONS = [
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "upsample_linear1d", "_adaptive_avg_pool2d",
]  # fmt: skip
_REDUCTIONS = [
    "mean", "sum", "amax", "amin", "max", "min", "argmax", "argmin", "prod", "var", "std", "var_mean", "std_mean",
    "logsumexp", "norm", "linalg_vector_norm", "any", "all", "median", "nansum", "nanmean",
]  # fmt: skip
_ALONG = [
    "softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "argsort", "topk", "glu",
]  # fmt: skip
_MADE = [
    "zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones", "new_empty", "new_full", "eye",
    "linspace", "arange", "scalar_tensor", "randint",
]  # fmt: skip

CONSTANT_MAKERS = ("zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full")


def is_elementwise(node: fx.Node) -> bool:
    """Says whether an operator maps each element by itself."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or op_name(node) in _ELEMENTWISE


def elementwise(step: Step) -> Ids:
    """Joins the channels that meet in an elementwise operator, broadcasting as torch does."""
    shape = step.shape
    parts = [step.ids(t) for t in step.tensors() if t.shape]
    axes: list[Vector | None] = []
    for d, size in enumerate(shape):
        met: list[Vector | None] = []
        for part in parts:
            own = d - (len(shape) - len(part.shape))
            if own < 0:
                continue
            if part.shape[own] != size:
                step.book.freeze(part.axes[own], step.because("one channel is spread over several"))
            else:
                met.append(part.axes[own])
        axes.append(_meet(step, met, size))
    return Ids(shape, tuple(axes))


def _meet(step: Step, met: list[Vector | None], size: int) -> Vector | None:
    known = [v for v in met if v is not None]
    if not known:
        return None
    merged = known[0]
    for vector in known[1:]:
        merged = step.book.join(merged, vector)
    if size > 1 and len(known) < len(met):
        step.book.freeze(merged, step.because("meets a dimension that holds no channels"))
    return merged


def _positions(step: Step) -> Any:  # Any: ids, or a list of them for pooling with indices
    ids = step.ids(step.first)
    rank = int(step.op.removesuffix("_with_indices")[-2])
    first = len(ids.shape) - rank
    for vector in ids.axes[first:]:
        step.book.freeze(vector, step.because("pooled over these channels"))
    out = Ids(step.shape, (*ids.axes[:first], *(None,) * rank))
    return [out, out] if isinstance(step.node.meta["val"], list | tuple) else out


def _reduction(step: Step) -> Any:  # Any: ids, or a list of them for several results
    ids = step.ids(step.first)
    if len(step.tensors()) > 1:  # max(a, b) and the like
        return elementwise(step)
    dims = step.args.get("dim")
    rank = len(ids.shape)
    gone = (
        set(range(rank))
        if dims is None or dims == []
        else {d % rank for d in ([dims] if isinstance(dims, int) else dims)}
    )
    for d in gone:
        step.book.freeze(ids.axes[d], step.because(f"{step.op} runs over these channels"))
    kept = bool(step.args.get("keepdim", False))
    axes = [None if d in gone else v for d, v in enumerate(ids.axes) if kept or d not in gone]
    out = Ids(step.shape, tuple(axes))
    value = step.node.meta["val"]
    return [out] * len(value) if isinstance(value, list | tuple) else out


def _along(step: Step) -> Any:  # Any: ids, or a list of them for several results
    ids = step.ids(step.first)
    dim = int(step.args.get("dim", -1)) % max(len(ids.shape), 1)
    step.book.freeze(ids.axes[dim], step.because(f"{step.op} runs over these channels"))
    axes = list(ids.axes)
    if step.shape[dim] != ids.shape[dim]:
        axes[dim] = step.book.fixed(step.shape[dim], step.because(f"made by {step.op}"))
    out = Ids(step.shape, tuple(axes))
    value = step.node.meta["val"]
    return [out] * len(value) if isinstance(value, list | tuple) else out


def _made(step: Step) -> Ids:
    shape = step.shape
    if all(size == 1 for size in shape):
        return Ids(shape, (None,) * len(shape))
    reason = step.because("a tensor of this size is made in the network's code")
    follows = step.op in CONSTANT_MAKERS and step.flexible(1) == 0
    vectors = step.book.made if follows else step.book.fixed
    return Ids(shape, tuple(vectors(n, reason) if n > 1 else None for n in shape))


def unknown(step: Step) -> Any:  # Any: ids, or a list of them for several results
    """Freezes everything that goes into an operator without a rule, and all that comes out."""
    reason = step.because(f"unknown operator {step.op}")
    for tensor in step.tensors():
        if isinstance(tensor, WeightRef):
            step.walk.parameters.freeze(tensor, reason)
        else:
            step.book.freeze_all(tensor, reason)
    value = step.node.meta.get("val")

    def fixed(out: Any) -> Ids | None:  # Any: a result of the operator
        if not isinstance(out, torch.Tensor):
            return None
        axes = (step.book.fixed(int(n), reason) if n > 1 else None for n in out.shape)
        return Ids(tuple(int(n) for n in out.shape), tuple(axes))

    return [fixed(v) for v in value] if isinstance(value, list | tuple) else fixed(value)


VALUE_RULES: dict[str, Callable[[Step], Any]] = {  # Any: a rule returns ids or a list of them
    **dict.fromkeys(_POSITIONS, _positions),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(_MADE, _made),
}
