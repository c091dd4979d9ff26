"""Finds convolutions whose output goes to one batch norm and nowhere else.

The network is exported (`torch.export`); a convolution and a batch norm are found in the graph by the full
names of their tensors, so containers, functional glue and the order of modules in the file do not matter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from compressor.errors import GraphError
from compressor.graph.program import quiet

__all__ = ["ConvBNPair", "conv_bn_pairs"]

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.conv2d.default, _aten.conv2d.padding}
_BATCH_NORMS = {
    _aten.batch_norm.default,
    _aten._native_batch_norm_legit_no_training.default,
    _aten._native_batch_norm_legit.default,
}
_RELUS = {_aten.relu.default, _aten.relu_.default, _aten.relu6.default, _aten.relu6_.default}
_CLAMPS = {_aten.hardtanh.default, _aten.hardtanh_.default, _aten.clamp.default, _aten.clamp_min.default}
_NONNEGATIVE = {_aten.sigmoid.default, _aten.hardsigmoid.default, _aten.softmax.int, _aten.abs.default}
# Non-negative if all their tensor inputs are.
_KEEP_SIGN = {
    _aten.max_pool2d.default, _aten.avg_pool2d.default, _aten.adaptive_avg_pool2d.default,
    _aten.adaptive_max_pool2d.default, _aten.dropout.default, _aten.dropout_.default,
    _aten.feature_dropout.default, _aten.add.Tensor, _aten.add_.Tensor, _aten.mul.Tensor, _aten.mul_.Tensor,
    _aten.cat.default, _aten.view.default, _aten.reshape.default, _aten.flatten.using_ints,
    _aten.permute.default, _aten.transpose.int, _aten.contiguous.default, _aten.clone.default, _aten.mean.dim,
}  # fmt: skip
# Of these, numbers among the inputs count too.
_ARITHMETIC = {_aten.add.Tensor, _aten.add_.Tensor, _aten.mul.Tensor, _aten.mul_.Tensor}


@dataclass(frozen=True)
class ConvBNPair:
    """A convolution and the batch norm that it alone feeds, by module name.

    Attributes:
        conv: name of the `nn.Conv2d`, as `model.get_submodule` takes it.
        bn: name of the `nn.BatchNorm2d`.
        activated: an activation function is all that reads the batch norm (False before a residual sum).
        nonnegative_input: the convolution's input cannot be below 0 (it comes from a ReLU through poolings).
    """

    conv: str
    bn: str
    activated: bool
    nonnegative_input: bool


def conv_bn_pairs(model: nn.Module, example: Tensor) -> tuple[tuple[ConvBNPair, ...], dict[str, str]]:
    """Returns the pairs in the order of computation, and why other convolutions have none.

    Args:
        model: stays as it is.
        example: (N, C, H, W), an input that it takes.

    Returns:
        Pairs, and a reason for each convolution without one: by module name, or by the graph's node name for
        a convolution that is no module.

    Raises:
        GraphError: the network cannot be exported.
    """
    program = _export(model, example)
    tensor_names = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None
    }
    modules = dict(model.named_modules())
    tied = _tied_modules(model)
    pairs: list[ConvBNPair] = []
    reasons: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.target not in _CONVOLUTIONS:
            continue
        name = _owner(node.args[1], tensor_names, "weight")
        conv = modules.get(name) if name is not None else None
        if name is None or not isinstance(conv, nn.Conv2d):
            reasons[node.name] = "convolution whose kernel is not the weight of a Conv2d module"
            continue
        bn_name = _fed_batch_norm(node, tensor_names)
        reason = tied.get(name) or _unfit_convolution(node, conv)
        if reason is None and bn_name is None:
            reason = _why_no_batch_norm(node)
        elif reason is None and bn_name is not None:
            reason = tied.get(bn_name) or _unfit_batch_norm(node, bn_name, modules.get(bn_name))
        if reason is not None or bn_name is None:
            reasons[name] = reason or "no batch norm"
            continue
        (bn_node,) = node.users
        pairs.append(ConvBNPair(name, bn_name, _activated(bn_node), _nonnegative(node.args[0], node)))
    paired = {pair.conv for pair in pairs}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d) and name not in paired and name not in reasons:
            unused = "its weight is not used as it is in the forward pass (unused, or computed first)"
            reasons[name] = tied.get(name, unused)
    return tuple(pairs), reasons


def _export(model: nn.Module, example: Tensor) -> ExportedProgram:
    with evaluating(model), torch.no_grad(), quiet():
        try:
            return torch.export.export(model, (example,), strict=False)
        except Exception as error:  # torch.export raises many kinds; the cause is kept
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise GraphError(
                f"{type(model).__name__} cannot be exported with an input of shape {tuple(example.shape)}: "
                f"{text}; torch.export needs a forward pass without branches that depend on the data"
            ) from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts all modules into evaluation mode, and each back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _tied_modules(model: nn.Module) -> dict[str, str]:
    """Convolutions and batch norms that share a tensor, or are themselves one module under two names."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            owners.setdefault(id(tensor), []).append(name)
    reasons = {}
    for names in owners.values():
        for name in names if len(names) > 1 else ():
            others = ", ".join(sorted(set(names) - {name}))
            reasons[name] = f"shares its tensors with {others}"
    return reasons


def _owner(argument: Any, tensor_names: dict[str, str], suffix: str) -> str | None:
    name = tensor_names.get(argument.name, "") if isinstance(argument, fx.Node) else ""
    module, _, attribute = name.rpartition(".")
    return module if attribute == suffix else None


def _fed_batch_norm(conv: fx.Node, tensor_names: dict[str, str]) -> str | None:
    users = list(conv.users)
    if len(users) != 1 or users[0].target not in _BATCH_NORMS:
        return None
    return _owner(users[0].args[3], tensor_names, "running_mean")


def _unfit_convolution(node: fx.Node, conv: nn.Conv2d) -> str | None:
    if _times_used(node.args[1], _CONVOLUTIONS) > 1:
        return "used more than once in a forward pass"
    if type(conv) is not nn.Conv2d:
        return f"its type is {type(conv).__name__}, not Conv2d"
    if conv.groups != 1:
        return f"grouped convolution ({conv.groups} groups)"
    if conv.padding_mode != "zeros":
        return f"padding mode '{conv.padding_mode}'"
    if conv.padding == "same" and any(d * (k - 1) % 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)):
        return "'same' padding that is uneven for its kernel size"
    return None


def _unfit_batch_norm(conv: fx.Node, name: str, bn: nn.Module | None) -> str | None:
    (bn_node,) = conv.users
    if type(bn) is not nn.BatchNorm2d:
        return f"{name} is a {type(bn).__name__}, not BatchNorm2d"
    if _times_used(bn_node.args[3], _BATCH_NORMS) > 1:
        return f"its batch norm {name} is used more than once in a forward pass"
    return None


def _why_no_batch_norm(conv: fx.Node) -> str:
    users = list(conv.users)
    if len(users) > 1:
        return f"its output is read {len(users)} times, not by a batch norm alone"
    target = users[0].target
    if target in _BATCH_NORMS:
        return "its batch norm keeps no running statistics"
    return f"its output goes to {getattr(target, '__name__', target)}, not to a batch norm"


def _times_used(argument: Any, targets: set[Any]) -> int:
    return sum(user.target in targets for user in argument.users)


def _activated(bn: fx.Node) -> bool:
    users = list(bn.users)
    # The functional form of batch norm returns a tuple; look through the choice of its first entry.
    if len(users) == 1 and users[0].op == "call_function" and getattr(users[0].target, "__name__", "") == "getitem":
        users = list(users[0].users)
    names = {str(user.target).removeprefix("aten.").split(".")[0].rstrip("_") for user in users}
    return len(users) > 0 and names <= _ACTIVATION_NAMES


_ACTIVATION_NAMES = {
    "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish",
    "hardswish", "sigmoid", "hardsigmoid", "tanh", "softplus", "clamp", "clamp_min",
}  # fmt: skip


def _nonnegative(value: Any, reader: fx.Node) -> bool:
    """Whether no number in `value` is below 0 when `reader` runs."""
    if not isinstance(value, fx.Node) or value.op != "call_function" or _is_overwritten(value, reader):
        return False
    if value.target in _RELUS or value.target in _NONNEGATIVE:
        return True
    if value.target in _CLAMPS:
        lowest = value.args[1] if len(value.args) > 1 else None
        return isinstance(lowest, int | float) and lowest >= 0
    numbers = [v for v in (*value.args, *value.kwargs.values()) if isinstance(v, int | float)]
    if value.target in _ARITHMETIC and any(number < 0 for number in numbers):
        return False
    return value.target in _KEEP_SIGN and all(_nonnegative(source, value) for source in value.all_input_nodes)


def _is_overwritten(value: fx.Node, reader: fx.Node) -> bool:
    """Whether an operator in place writes into the memory of `value` after it was made and before `reader` runs.

    `x[:, :2].sub_(1)` writes through a view, of which the readers of `x` show nothing.
    """
    memory = _memory(value)
    between = False
    for node in value.graph.nodes:
        if node is reader:
            return False
        if between and any(_memory(written) is memory for written in _written(node)):
            return True
        between = between or node is value
    return False


def _memory(value: fx.Node) -> fx.Node:
    """The first tensor that has the memory of `value`, as far as the operators' schemas say; or `value` itself."""
    while value.op == "call_function":
        schema = getattr(value.target, "_schema", None)
        is_item = schema is None and getattr(value.target, "__name__", "") == "getitem"  # of what chunk or split gives
        shares = is_item or (schema is not None and any(entry.alias_info is not None for entry in schema.returns))
        if not shares or not isinstance(value.args[0], fx.Node):
            return value
        value = value.args[0]
    return value


def _written(node: fx.Node) -> list[fx.Node]:
    """The arguments that an operator writes into."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    given = {parameter.name: argument for parameter, argument in zip(schema.arguments, node.args, strict=False)}
    given |= node.kwargs
    names = [entry.name for entry in schema.arguments if entry.alias_info is not None and entry.alias_info.is_write]
    return [written for written in map(given.get, names) if isinstance(written, fx.Node)]
