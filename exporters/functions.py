"""Gives every `compress` node its local function, so that a file runs without the native library."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporters import bodies, opset
from exporters.bodies import FBSVariant, LinearVariant, SumVariant
from exporters.errors import ExportError
from exporters.nodes import attributes_of, is_op
from exporters.sparse_body import sparse_activation, sparse_conv_body

__all__ = ["attach_functions"]

# Bodies of ops by what their overloads stand for: nothing, the bound of a sum, a clamp, a variant of FBSConv. Those of
# FBSConvDepthwise and FBSConvDepthwiseInt8 stand for such a variant, a clamp and a number of channels.
_PLAIN = {
    opset.TO_NHWC.name: bodies.to_nhwc_body,
    opset.MAX_POOL_NHWC.name: bodies.max_pool_nhwc_body,
    opset.UNPACK.name: bodies.unpack_body,
    opset.UNPACK_INT8.name: bodies.unpack_int8_body,
}
_BOUNDED = {opset.UNPACK_ADD_INT8.name: bodies.unpack_add_int8_body}
_CLAMPED = {
    opset.DEPTHWISE_CONV.name: bodies.depthwise_conv_body,
    opset.SPARSE_CONV.name: sparse_conv_body,
}
_FBS = {opset.FBS_CONV.name: bodies.fbs_conv_body, opset.FBS_CONV_INT8.name: bodies.fbs_conv_int8_body}


def attach_functions(model: ModelProto) -> ModelProto:
    """Returns a copy of `model` in which each `compress` node names a local function held by the file.

    Functions already there for this domain are replaced; one function is written per variant in use. A first
    graph input of static batch 1 selects the bodies with gathered weights, anything else the bodies for any
    batch.

    Raises:
        ExportError: a node of the domain is not in `opset.OPS`, or lacks an attribute or input.
    """
    result = ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    one_sample = _batch(result) == 1
    version = next((entry.version for entry in result.opset_import if not entry.domain), opset.ONNX_OPSET)
    functions = {}
    for node in result.graph.node:
        if node.domain != opset.DOMAIN:
            continue
        check_node(node)
        if node.op_type in _PLAIN:
            node.overload = ""
            functions[node.op_type, ""] = _PLAIN[node.op_type](version)
        elif node.op_type in _BOUNDED:
            node.overload = _bound(node)
            functions[node.op_type, node.overload] = _BOUNDED[node.op_type](node.overload, version)
        elif node.op_type in _CLAMPED:
            node.overload = _clamp(node)
            functions[node.op_type, node.overload] = _CLAMPED[node.op_type](node.overload, version)
        elif node.op_type == opset.UNPACK_ADD.name:
            total = SumVariant(_bound(node), packed=len(node.input) > 3, measured=len(node.output) > 1)
            node.overload = total.overload
            functions[node.op_type, total.overload] = bodies.unpack_add_body(total, version)
        elif node.op_type == opset.LINEAR.name:
            form = _linear_variant(node, constants)
            node.overload = form.overload
            functions[node.op_type, form.overload] = bodies.linear_body(form, version)
        elif is_op(node, opset.FBS_CONV_DEPTHWISE, opset.FBS_CONV_DEPTHWISE_INT8):
            variant, clamp = _variant(node, constants, one_sample), _clamp(node, "depthwise_")
            outputs, int8 = _outputs(node, constants), is_op(node, opset.FBS_CONV_DEPTHWISE_INT8)
            body = bodies.fbs_conv_depthwise_body(variant, clamp, outputs, version, int8=int8)
            node.overload = body.overload
            functions[node.op_type, body.overload] = body
        else:
            variant = _variant(node, constants, one_sample)
            node.overload = variant.overload
            functions[node.op_type, variant.overload] = _FBS[node.op_type](variant, version)
    kept = [function for function in result.functions if function.domain != opset.DOMAIN]
    del result.functions[:]
    result.functions.extend([*kept, *(functions[key] for key in sorted(functions))])
    if functions:
        _import_domains(result)
        result.ir_version = max(result.ir_version, opset.IR_VERSION)
    return result


def check_node(node: NodeProto) -> None:
    """Raises ExportError if a `compress` node does not have the inputs and attributes of its op."""
    where = f"node '{node.name}' ({opset.DOMAIN}.{node.op_type})"
    if node.op_type not in opset.OPS:
        raise ExportError(f"{where} is unknown; this version knows: {', '.join(sorted(opset.OPS))}")
    op = opset.OPS[node.op_type]
    wanted = sum(not tensor.optional for tensor in op.inputs)
    given = len([name for name in node.input if name])
    if not wanted <= given <= len(op.inputs):
        raise ExportError(f"{where} has {given} inputs; allowed are {wanted} to {len(op.inputs)}")
    missing = [a.name for a in op.attributes if a.name not in {given.name for given in node.attribute}]
    if missing:
        raise ExportError(f"{where} lacks the attributes {', '.join(missing)}; write all of opset.{op.name}")


def _bound(node: NodeProto) -> str:
    """Which of UNPACK_ADD_ACTIVATIONS an UnpackAdd, UnpackAddInt8 or Linear has."""
    return {-opset.FLOAT_MAX: "none", 0.0: "relu"}.get(attributes_of(node)["lower"], "bounded")


def _clamp(node: NodeProto, prefix: str = "") -> str:
    """The activation that the bounds of a DepthwiseConv, SparseConv or FBS layer are, or those behind `prefix`."""
    values = attributes_of(node)
    return sparse_activation(values[f"{prefix}lower"], values[f"{prefix}upper"])


def _variant(node: NodeProto, constants: dict[str, TensorProto], one_sample: bool) -> FBSVariant:
    values, given = attributes_of(node), _given(node, constants)
    saliency_weight, weight = constants[given["A"]], constants[given["W"]]
    whole = is_op(node, opset.FBS_CONV_INT8, opset.FBS_CONV_DEPTHWISE_INT8)  # whose W has steps of its own
    channels, outputs = saliency_weight.dims
    return FBSVariant(
        one_sample=one_sample,
        dense_input=_is_identity(constants.get(node.input[1]), channels),
        all_win=values["winners"] == outputs,
        normalize=bool(values["normalize"]),
        post_shift=bool(given.get("D")),
        left_out=bool(given.get("E")),
        measured=bool(given.get("U")),
        measures=len(node.output) > 2,
        half=_is_half(saliency_weight),
        half_weight=_is_half(weight),
        byte=_is_in_steps(node, constants, "A", "Q"),
        byte_weight=not whole and _is_in_steps(node, constants, "W", "P"),
        activation=_clamp(node),
        nonnegative=values["saliency_slope"] == 0.0,
        pointwise=list(weight.dims[2:]) == [1, 1],
        blocks=values["winner_block"] > 1,
    )


def _outputs(node: NodeProto, constants: dict[str, TensorProto]) -> int:
    """K of an FBS layer."""
    return int(constants[_given(node, constants)["R"]].dims[0])


def _linear_variant(node: NodeProto, constants: dict[str, TensorProto]) -> LinearVariant:
    return LinearVariant(
        _bound(node),
        dense_input=_is_identity(constants.get(node.input[1]), attributes_of(node)["channels"]),
        half_weight=_is_half(constants[_given(node, constants)["W"]]),
        byte_weight=_is_in_steps(node, constants, "W", "P"),
        average=bool(attributes_of(node)["average"]),
    )


def _given(node: NodeProto, constants: dict[str, TensorProto]) -> dict[str, str]:
    """The tensors that a node reads, by the op's names for them; those that must be constant are."""
    op = opset.OPS[node.op_type]
    for tensor, name in zip(op.inputs, node.input, strict=False):
        if tensor.constant and name and name not in constants:
            raise ExportError(f"node '{node.name}': input {tensor.name} must be an initializer, not '{name}'")
    return op.given(node.input)


def _is_half(tensor: TensorProto) -> bool:
    return bool(tensor.data_type == TensorProto.FLOAT16)


def _is_in_steps(node: NodeProto, constants: dict[str, TensorProto], name: str, steps: str) -> bool:
    """True where the weights that the op calls `name` are int8, and so have `steps`."""
    given = _given(node, constants)
    whole = bool(constants[given[name]].data_type == TensorProto.INT8)
    if whole != bool(given.get(steps)):
        raise ExportError(f"node '{node.name}': {name} is int8 just where there is {steps}, its steps")
    return whole


def _is_identity(indices: TensorProto | None, channels: int) -> bool:
    """True for the constant [[0 .. channels-1]]: every channel is there, in its place."""
    if indices is None or list(indices.dims) != [1, channels]:
        return False
    return bool(np.array_equal(numpy_helper.to_array(indices)[0], np.arange(channels)))


def _batch(model: ModelProto) -> int | None:
    """Static first dimension of the first real graph input, or None."""
    held = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in held and dims and dims[0].HasField("dim_value"):
            return int(dims[0].dim_value)
    return None


def _import_domains(model: ModelProto) -> None:
    if opset.DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(opset.DOMAIN, opset.VERSION))
