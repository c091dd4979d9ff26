"""From a torch network to a first ONNX graph: FBS layers kept whole, names made readable."""

import ast
import collections
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from exporters import opset
from exporters.errors import ExportError

__all__ = ["capture", "evaluating"]

_SCOPES = "pkg.torch.onnx.name_scopes"


def capture(model: nn.Module, example: Tensor, *, dynamic: bool, onnx_opset: int) -> ModelProto:
    """Returns the ONNX graph of `model` in evaluation mode, nodes named after their modules.

    Args:
        model: On the example's device; its training flags are put back afterwards.
        example: (N, ...), the shape to export; with `dynamic` its first dimension becomes `batch`.
        dynamic: Leave the batch size open.
        onnx_opset: Version of the standard ops.

    Raises:
        ExportError: torch cannot trace the network or translate one of its ops.
    """
    if dynamic and len(example) < 2:
        example = torch.cat([example, example])  # torch.export treats a size of 1 as written in the network
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    with evaluating(model), torch.no_grad(), _quiet():
        try:
            with _KeepWhole():
                program = torch.export.export(model, (example,), dynamic_shapes=shapes)
            onnx_program = torch.onnx.export(program, dynamo=True, opset_version=onnx_opset, verbose=False)
        except Exception as error:
            raise ExportError(f"torch cannot export this network: {_first_line(error)}") from error
    assert onnx_program is not None
    proto: ModelProto = onnx_program.model_proto
    _name_nodes(proto)
    if dynamic:
        _name_batch(proto)
    return proto


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode inside; every module's own flag is put back at the end."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _KeepWhole(TorchFunctionMode):
    """Traces compress::fbs_conv as one symbolic ONNX node, and a stable sort as a sort."""

    # Any: torch gives functions, types and arguments of every kind.
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Compared by name: the op belongs to the compressor package, which this one must not import.
        if str(func) == "compress.fbs_conv.default":
            return _fbs_conv_node(*args, **(kwargs or {}))
        if func is torch.sort and kwargs:
            # ONNX sorts with TopK, which is stable; the exporter translates only the sort that does not promise it.
            kwargs = {key: value for key, value in kwargs.items() if key != "stable"}
        return func(*args, **(kwargs or {}))


def _fbs_conv_node(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    post_shift: Tensor | None,
    saliency_weight: Tensor,
    saliency_bias: Tensor,
    winners: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    saliency_slope: float,
    normalize: bool,
    winner_block: int = 1,
) -> Tensor:
    inputs = [x, weight, shift, saliency_weight, saliency_bias]
    shape = torch.nn.functional.conv2d(x, weight, None, list(stride), list(padding), list(dilation)).shape
    return torch.onnx.ops.symbolic(
        f"{opset.TORCH_DOMAIN}::{opset.TORCH_FBS_CONV}",
        inputs if post_shift is None else [*inputs, post_shift],
        attrs={
            "winners": int(winners),
            "strides": list(stride),
            "pads": [*padding, *padding],
            "dilations": list(dilation),
            "saliency_slope": float(saliency_slope),
            "normalize": int(normalize),
            "winner_block": int(winner_block),
        },
        dtype=x.dtype,
        shape=shape,
        version=opset.VERSION,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's progress lines, warnings about its own future, and the pages it logs of a failure.

    A dozen loggers of torch tell of one failure, and `torch.export` prints the graph so far to standard error besides;
    the error that is raised says what matters.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _name_nodes(model: ModelProto) -> None:
    """Changes `model`: a node is called after its module (layer1.0.conv1), or module/Op if it has several."""
    weights = {tensor.name for tensor in model.graph.initializer}
    scopes = [_module_of(node, weights) for node in model.graph.node]
    in_scope = collections.Counter(scopes)
    taken: collections.Counter[str] = collections.Counter()
    for node, scope in zip(model.graph.node, scopes, strict=True):
        own = scope and (in_scope[scope] == 1 or node.domain == opset.TORCH_DOMAIN)
        name = scope if own else f"{scope}/{node.op_type}".removeprefix("/")
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        # Stack traces hold paths of this machine and line numbers; files must not depend on either.
        del node.metadata_props[:]


def _module_of(node: NodeProto, weights: set[str]) -> str:
    """The module whose weight the node reads, or else where it was traced; empty for the network itself."""
    # A convolution into which torch has folded a batch norm is marked as the batch norm's, but keeps its
    # weight's name.
    own = [name.removesuffix(".weight") for name in node.input if name in weights and name.endswith(".weight")]
    if own and node.domain != opset.TORCH_DOMAIN:
        return str(own[0])
    held = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(held[_SCOPES])[:-1] if _SCOPES in held else []
    return str(scopes[-1]) if scopes else ""


def _name_batch(model: ModelProto) -> None:
    """Changes `model`: torch's symbol for the batch size (s77) becomes `batch` wherever it stands alone."""
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = "batch"


def _first_line(error: BaseException) -> str:
    """The innermost cause in one line: torch wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
