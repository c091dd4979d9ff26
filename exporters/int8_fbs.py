"""Static int8 for files with FBS layers: FBSConv becomes FBSConvInt8, with ranges calibrated on real inputs.

Where a DepthwiseConv alone reads its planes, both become one FBSConvDepthwiseInt8, see `passes.fuse_depthwise`.

Weights, predictors among them: per output channel, symmetric; predictors in float16 stay so. Activations: uint8 per
tensor; 0 is a byte of its own (0 behind a ReLU). Bytes flow from layer to layer, through transposes, max pools and
residual sums too; wherever something reads floats, a DequantizeLinear stands before it, and a QuantizeLinear behind
what makes floats for an FBS layer. Unpacked channels and sums that no layer in int8 reads in the end stay floats, as
precise as they are.

Weights of linear layers that have many are whole numbers too, and their results floats:

    Gemm(x, W, b)               becomes  Cast(MatMulInteger(bytes of x, W, zero)) * steps + b
    Linear(x, i, W, b)          becomes  Linear(x, i, W, b, steps)

On packed planes the weights come from far away, and a Linear reads those of live channels alone: it takes half of the
time that multiplying all of them in int8 does, and its planes need not be rounded. In small layers these nodes would
take longer than the layer does.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporters import opset
from exporters.calibration import Array, Int8Settings, ranges_of
from exporters.errors import ExportError
from exporters.functions import attach_functions
from exporters.int8 import Steps
from exporters.int8_plan import Int8Plan, works_on_bytes
from exporters.nodes import attributes_of, is_op

__all__ = ["has_fbs_layers", "quantize_fbs"]

_OURS = (opset.FBS_CONV.name, opset.DEPTHWISE_CONV.name, opset.LINEAR.name)
_LAYERS = (*_OURS, opset.FBS_CONV_DEPTHWISE.name, "Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class _Bytes:
    """A tensor of bytes q that stands for step * (q - zero)."""

    name: str
    step: float
    zero: int


def has_fbs_layers(model: ModelProto) -> bool:
    """Whether there is an FBSConv or FBSConvDepthwise."""
    return any(is_op(node, opset.FBS_CONV, opset.FBS_CONV_DEPTHWISE) for node in model.graph.node)


def quantize_fbs(
    model: ModelProto, settings: Int8Settings, *, steps: Steps | None = None
) -> tuple[ModelProto, tuple[str, ...]]:
    """Returns the model with its FBS layers in int8, and a line that says what became of the layers.

    Args:
        model: Finished, in float, with FBS layers; of one float input.
        settings: Calibration and the inputs for it.
        steps: Of weights that are in fixed point already, so that they are not rounded a second time.

    Raises:
        ExportError: No layer can become int8, or there are fewer inputs than the model takes at a time.
    """
    model = _without_means(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        onnx.save(model, path)
        ranges = ranges_of(path, settings, (*_OURS, opset.UNPACK_ADD.name, "Gemm"))
    plan = Int8Plan(model, ranges)
    rewriting = _Rewriting(model, plan, ranges, steps or {})
    result = rewriting.run()
    left = [
        f"{node.name} ({plan.refused.get(node.name, node.op_type)})"
        for node in model.graph.node
        if node.op_type in _LAYERS and node.name not in rewriting.done
    ]
    if not rewriting.done:
        raise ExportError(f"no layer can become int8: {', '.join(left)}; leave --int8 out")
    num_fbs, num_depthwise = (
        sum(node.name in rewriting.done for node in model.graph.node if is_op(node, op))
        for op in (opset.FBS_CONV, opset.DEPTHWISE_CONV)
    )
    others = {"depthwise": num_depthwise, "linear": len(rewriting.done) - num_fbs - num_depthwise}
    note = f"int8: {num_fbs} FBS layers" + "".join(f", {number} {kind}" for kind, number in others.items() if number)
    return attach_functions(result), (f"{note}; {', '.join(left)} stay float32" if left else note,)


def _without_means(model: ModelProto) -> ModelProto:
    """A copy in which each layer takes its own: of planes that become bytes nobody hands on means."""
    result = ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        op = opset.OPS[node.op_type] if node.domain == opset.DOMAIN else None
        if op in (opset.FBS_CONV, opset.FBS_CONV_DEPTHWISE, opset.UNPACK_ADD):
            names = [tensor.name for tensor in op.inputs]
            if "U" in names[: len(node.input)]:
                node.input[names.index("U")] = ""
            while not node.input[-1]:
                node.input.pop()
            del node.output[sum(not tensor.optional for tensor in op.outputs) :]
    return attach_functions(result)


def _steps(values: Array) -> Array:
    """A step for each row, such that its largest value is 127 of them."""
    steps = (np.abs(values).reshape(len(values), -1).max(axis=1) / 127).astype(np.float32)
    return np.where(steps > 0, steps, np.float32(1))


class _Rewriting:
    """Does what is planned: walks over the nodes once, in their order.

    Attributes:
        done: Names of the layers that are int8 now.
    """

    def __init__(
        self, model: ModelProto, plan: Int8Plan, ranges: Mapping[str, tuple[float, float]], steps: Steps
    ) -> None:
        graph = model.graph
        self.done: set[str] = set()
        self._model, self._plan, self._ranges, self._steps = model, plan, ranges, steps
        self._held = {tensor.name: tensor for tensor in graph.initializer}
        self._infos = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        self._floats = {value.name for value in graph.input}  # tensors that exist as floats
        self._bytes: dict[str, _Bytes] = {}  # float tensor -> the bytes that stand for it
        self._nodes: list[NodeProto] = []
        self._new: dict[str, TensorProto] = {}
        self._new_infos: list[onnx.ValueInfoProto] = []

    def run(self) -> ModelProto:
        """The rewritten model, its functions still the old ones."""
        for node in self._model.graph.node:
            if is_op(node, opset.FBS_CONV) and node.name not in self._plan.refused:
                self._fbs_conv(node)
            elif is_op(node, opset.DEPTHWISE_CONV) and node.output[0] in self._bytes:
                continue  # its layer makes them
            elif is_op(node, opset.UNPACK) and node.output[0] in self._plan.wanted and node.input[0] in self._bytes:
                self._unpack(node)
            elif is_op(node, opset.UNPACK_ADD) and node.output[0] in self._plan.wanted:
                self._unpack_add(node)
            elif works_on_bytes(node) and node.input[0] in self._bytes:
                self._on_bytes(node)
            elif node.name in self._plan.linear:
                self._linear(node) if is_op(node, opset.LINEAR) else self._gemm(node)
            else:
                for name in node.input:
                    self._need_floats(name)
                self._nodes.append(node)
                self._floats.update(node.output)
        for value in self._model.graph.output:
            self._need_floats(value.name)
        return self._result()

    def _fbs_conv(self, node: NodeProto) -> None:
        op, given, last = opset.FBS_CONV_INT8, opset.FBS_CONV.given(node.input), node
        x, y = self._as_held(given["X"]), self._as_bytes(node.output[0])
        scales: dict[str, Any] = {"x_step": x.step, "x_zero": x.zero}  # as _put has it
        given["X"] = x.name
        given["W"], given["S"] = self._weight(given["W"])
        if self._is_smaller_in_int8(given["A"]):
            given["A"], given["Q"] = self._weight(given["A"], axis=1)
        if given.get("E"):
            left_out = self._plan.left_out(node, x.step).astype(np.int32)
            given["E"] = self._constant(f"{node.name}.left_out.int32", left_out)
        if node.name in self._plan.behind:
            op, last = opset.FBS_CONV_DEPTHWISE_INT8, self._plan.behind[node.name]
            scales |= {"between_step": y.step, "between_zero": y.zero}
            scales |= {f"depthwise_{name}": value for name, value in attributes_of(last).items() if name != "channels"}
            given["V"], given["G"] = self._weight(last.input[2])
            given["F"] = last.input[3]
            y = self._as_bytes(last.output[0])
        inputs = [given.get(tensor.name, "") for tensor in op.inputs]
        while not inputs[-1]:
            inputs.pop()
        self._put(op, node, inputs, [y.name, node.output[1]], **scales, y_step=y.step, y_zero=y.zero)
        self._bytes[last.output[0]] = y
        self.done.update((node.name, last.name))

    def _is_smaller_in_int8(self, name: str) -> bool:
        """Whether floats (C, K) take more bytes than whole numbers and a step for each of K."""
        held = self._held[name]
        return bool(held.data_type == TensorProto.FLOAT and held.dims[0] > 1)

    def _unpack(self, node: NodeProto) -> None:
        x = self._bytes[node.input[0]]
        y = _Bytes(self._byte_name(node.output[0]), x.step, x.zero)
        self._put(opset.UNPACK_INT8, node, [x.name, node.input[1]], [y.name], zero=x.zero)
        self._bytes[node.output[0]] = y

    def _unpack_add(self, node: NodeProto) -> None:
        x, z = self._as_held(node.input[0]), self._as_held(node.input[2])
        y = self._as_bytes(node.output[0])
        scales = {"x_step": x.step, "x_zero": x.zero, "z_step": z.step, "z_zero": z.zero}
        inputs = [x.name, node.input[1], z.name]
        self._put(opset.UNPACK_ADD_INT8, node, inputs, [y.name], **scales, y_step=y.step, y_zero=y.zero)
        self._bytes[node.output[0]] = y

    def _put(
        self,
        op: opset.Op,
        node: NodeProto,
        inputs: list[str],
        outputs: list[str],
        **attributes: Any,  # ONNX attributes
    ) -> None:
        """Adds `op` in the place of `node`, whose attributes it keeps."""
        kept = attributes_of(node)
        made = helper.make_node(op.name, inputs, outputs, name=node.name, domain=opset.DOMAIN, **kept, **attributes)
        self._nodes.append(made)

    def _on_bytes(self, node: NodeProto) -> None:
        x = self._bytes[node.input[0]]
        result = _Bytes(self._byte_name(node.output[0]), x.step, x.zero)
        moved = NodeProto()
        moved.CopyFrom(node)
        moved.input[0], moved.output[0] = x.name, result.name
        self._nodes.append(moved)
        self._bytes[node.output[0]] = result

    def _linear(self, node: NodeProto) -> None:
        planes, index, weight, bias = node.input[:4]
        self._need_floats(planes)
        levels, steps = self._weight(weight, axis=1)
        self._put(opset.LINEAR, node, [planes, index, levels, bias, steps], list(node.output))
        self._floats.update(node.output)
        self.done.add(node.name)

    def _gemm(self, node: NodeProto) -> None:
        x, stem = self._as_held(node.input[0]), node.name
        values = attributes_of(node)
        weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
        levels, steps = self._weight(weight, axis=0 if values.get("transB", 0) else 1)
        scale = self._constant(f"{stem}.scale", numpy_helper.to_array(self._new[steps]) * np.float32(x.step))
        sums = self._standard("MatMulInteger", x.name, levels, self._scale(x)[1], name=stem)
        y = self._standard("Mul", self._standard("Cast", sums, to=TensorProto.FLOAT), scale)
        y = self._standard("Add", y, bias) if bias else y
        self._nodes[-1].output[0] = node.output[0]
        self._floats.add(node.output[0])
        self.done.add(node.name)

    def _standard(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:  # Any: of ONNX attributes
        """Adds a standard op; returns its output."""
        output = f"{name or inputs[0]}/{op}"
        self._nodes.append(helper.make_node(op, inputs, [output], name=name or output, **attributes))
        return output

    def _constant(self, name: str, values: np.ndarray[Any, Any]) -> str:
        self._new[name] = numpy_helper.from_array(values, name)
        return name

    def _as_held(self, name: str) -> _Bytes:
        """The bytes of a tensor: those that are there, or through a QuantizeLinear behind its floats."""
        if name in self._bytes:
            return self._bytes[name]
        found = self._as_bytes(name)
        self._nodes.append(
            helper.make_node("QuantizeLinear", [name, *self._scale(found)], [found.name], name=f"{name}/ToBytes")
        )
        self._bytes[name] = found
        return found

    def _need_floats(self, name: str) -> None:
        """Puts a DequantizeLinear behind bytes, unless the floats are there."""
        if name in self._bytes and name not in self._floats:
            found = self._bytes[name]
            self._nodes.append(
                helper.make_node("DequantizeLinear", [found.name, *self._scale(found)], [name], name=f"{name}/ToFloats")
            )
            self._floats.add(name)

    def _as_bytes(self, name: str) -> _Bytes:
        step = self._plan.step(name)
        return _Bytes(self._byte_name(name), step, round(-min(self._ranges[name][0], 0.0) / step))

    def _byte_name(self, name: str) -> str:
        """A name for the bytes of a tensor, with its shape on record."""
        if name in self._infos:
            info = onnx.ValueInfoProto()
            info.CopyFrom(self._infos[name])
            info.name = f"{name}.bytes"
            info.type.tensor_type.elem_type = TensorProto.UINT8
            self._new_infos.append(info)
        return f"{name}.bytes"

    def _scale(self, found: _Bytes) -> tuple[str, str]:
        step = self._constant(f"{found.name}.step", np.array(found.step, np.float32))
        return step, self._constant(f"{found.name}.zero", np.array(found.zero, np.uint8))

    def _weight(self, name: str, axis: int = 0) -> tuple[str, str]:
        """Names of a weight's whole numbers and steps; `axis` is the outputs'. A matrix comes as (inputs, outputs)."""
        values = np.moveaxis(numpy_helper.to_array(self._held[name]), axis, 0)
        steps = self._steps[name][0] if name in self._steps else _steps(values)
        levels = np.clip(np.rint(values / steps.reshape(-1, *[1] * (values.ndim - 1))), -128, 127).astype(np.int8)
        levels = np.ascontiguousarray(levels.T if levels.ndim == 2 else levels)
        return self._constant(f"{name}.int8", levels), self._constant(f"{name}.step", steps)

    def _result(self) -> ModelProto:
        result = ModelProto()
        result.CopyFrom(self._model)
        graph = result.graph
        used = {name for node in self._nodes for name in node.input}
        made = {name for node in self._nodes for name in node.output}
        constants = [tensor for name, tensor in {**self._held, **self._new}.items() if name in used]
        infos = [value for value in (*graph.value_info, *self._new_infos) if value.name in made]
        for entries, values in ((graph.node, self._nodes), (graph.initializer, constants), (graph.value_info, infos)):
            copies = [type(value).FromString(value.SerializeToString()) for value in values]
            del entries[:]
            entries.extend(copies)
        return result
