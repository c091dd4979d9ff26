"""Static int8: Q/DQ pairs whose ranges were calibrated on real inputs, in standard ops.

Weights: per output channel, symmetric, zero point 0. Activations: per tensor; with `symmetric` zero point 0 too, as
TensorRT needs, otherwise the whole range min to max, as ONNX Runtime's CPU kernels like. Placement:

1. Asymmetric: inputs and outputs of convolutions, linear layers, sums and pools, where ONNX Runtime fuses the pairs
   into integer kernels.
2. Symmetric: inputs of convolutions and linear layers only, so that what follows a convolution (a sum, an activation)
   fuses with it; a sum also reads its shortcut through the pair that the shortcut's other readers have. Biases stay
   float. Source: NVIDIA TensorRT documentation, "Explicit Quantization", recommended placement of Q/DQ.

Calibration and insertion are onnxruntime.quantization's.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from exporters.calibration import CALIBRATIONS, PERCENTILE, Array, Int8Settings, Reader, finite_ranges, method_of, quiet
from exporters.errors import ExportError

__all__ = ["CALIBRATIONS", "Int8Settings", "Steps", "quantize_int8", "stored_steps"]

Steps = Mapping[str, tuple[Array, int]]
"""Weight of a model -> step of each output channel, and the axis of the output channels."""

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_OTHERS = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Clip", "Reshape", "Flatten")
# Set in a model that onnxruntime.quantization need not advise to prepare; batch norm is folded here already.
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")


def stored_steps(model: ModelProto) -> dict[str, tuple[Array, int]]:
    """Returns the steps of weights that `passes.quantize_weights` has stored as whole numbers, one per channel.

    They come back out of the float form of the same model under the same names: weight / step is whole.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or any(name not in held for name in node.input):
            continue
        shape = tuple(held[node.input[0]].dims)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        steps = numpy_helper.to_array(held[node.input[1]])
        found[node.output[0]] = np.broadcast_to(steps, shape[axis : axis + 1]).astype(np.float32), axis
    return found


def quantize_int8(
    model: ModelProto, settings: Int8Settings, *, symmetric: bool, steps: Steps | None = None
) -> ModelProto:
    """Returns the model with Q/DQ pairs; see the module for where.

    Args:
        model: Of one float input, with constant weights and without ops of domain `compress`.
        settings: Calibration and the inputs for it.
        symmetric: Zero point 0 for activations, placement and biases as TensorRT wants them.
        steps: Of weights that are in fixed point already, so that they are not rounded a second time; all others
            are measured.

    Raises:
        ExportError: There is nothing to quantise, fewer inputs than the model takes at a time, or a tensor that is not
            finite on one of them.
    """
    if not any(node.op_type in _WEIGHTED for node in model.graph.node):
        raise ExportError("the network has no convolution and no linear layer, so there is nothing to quantise")
    # Any: onnxruntime ships no types.
    from onnxruntime import quantization as ort

    prepared = ModelProto()
    prepared.CopyFrom(model)
    prepared.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])
    options: dict[str, Any] = {
        "ActivationSymmetric": symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": not symmetric,
        "CalibPercentile": PERCENTILE,
        "TensorQuantOverrides": {
            name: [
                {"quant_type": ort.QuantType.QInt8, "axis": axis, "scale": scale, "zero_point": 0} for scale in scales
            ]
            for name, (scales, axis) in (steps or {}).items()
        },
    }
    if symmetric:
        options["OpTypesToExcludeOutputQuantization"] = list(_WEIGHTED)
    with tempfile.TemporaryDirectory() as folder, quiet(), finite_ranges(len(settings.images)):
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(prepared, source)
        ort.quantize_static(
            source,
            result,
            Reader(model.graph.input[0], settings.images),
            op_types_to_quantize=list(_WEIGHTED if symmetric else (*_WEIGHTED, *_OTHERS)),
            per_channel=True,
            activation_type=ort.QuantType.QInt8 if symmetric else ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            calibrate_method=method_of(settings.calibration),
            extra_options=options,
        )
        quantized = onnx.load(result)
        if not all(np.isfinite(numpy_helper.to_array(held)).all() for held in _steps(quantized)):
            raise ValueError("not finite")
    if symmetric:
        _share_pairs(quantized)
    return _restored(quantized, model)


def _steps(model: ModelProto) -> list[onnx.TensorProto]:
    """What Q/DQ nodes multiply or divide by."""
    names = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    return [held for held in model.graph.initializer if held.name in names]


def _share_pairs(model: ModelProto) -> None:
    """Changes `model`: a sum reads a shortcut through the Q/DQ pair that the shortcut's other readers have."""
    quantize = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    pairs = {
        quantize[node.input[0]]: node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantize
    }
    for node in model.graph.node:
        if node.op_type == "Add":
            known = [place for place, name in enumerate(node.input) if name in pairs]
            if len(known) == 1:  # both would take the fusion away from the convolution behind the other operand
                node.input[known[0]] = pairs[node.input[known[0]]]


def _restored(quantized: ModelProto, model: ModelProto) -> ModelProto:
    """The quantised graph under the original's name, versions and metadata, in topological order."""
    # With torch's exporter, part of the training install.
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(quantized)
    graph.cleanup().toposort()
    graph.name = model.graph.name
    result: ModelProto = gs.export_onnx(graph, do_type_check=False)
    del result.opset_import[:]
    result.opset_import.extend(model.opset_import)
    result.ir_version = model.ir_version
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    return result
