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

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, numpy_helper

from exporters import opset
from exporters.errors import ExportError

__all__ = ["CALIBRATIONS", "Int8Settings", "Steps", "quantize_int8", "stored_steps"]

Array = npt.NDArray[np.float32]

Steps = Mapping[str, tuple[Array, int]]
"""Weight of a model -> step of each output channel, and the axis of the output channels."""

CALIBRATIONS = {
    "min-max": "smallest and largest value seen",
    "percentile": "the range that holds all but 0.01 % of the values seen",
    "entropy": "the range whose 8-bit histogram keeps most information (least Kullback-Leibler divergence)",
}
_PERCENTILE = 99.99  # as the table above says
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_OTHERS = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Clip", "Reshape", "Flatten")
# Set in a model that onnxruntime.quantization need not advise to prepare; batch norm is folded here already.
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")


@dataclass(frozen=True)
class Int8Settings:
    """How ranges are found.

    Attributes:
        calibration: One of `CALIBRATIONS`.
        images: Real inputs (N, ...), through the network's own preprocessing; every one of them is run.
    """

    calibration: str
    images: Array

    def __post_init__(self) -> None:
        """Checks the name.

        Raises:
            ExportError: It is not in `CALIBRATIONS`.
        """
        if self.calibration not in CALIBRATIONS:
            raise ExportError(f"unknown calibration '{self.calibration}'; choose from: {', '.join(CALIBRATIONS)}")


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
        ExportError: There is nothing to quantise, or fewer inputs than the model takes at a time.
    """
    if any(node.domain == opset.DOMAIN for node in model.graph.node):
        raise ExportError(
            "--int8 quantises convolutions, and FBS layers are single nodes here; take --target tensorrt, which writes "
            "them in standard ops, or quantise the weights alone with 'compress quantize'"
        )
    if not any(node.op_type in _WEIGHTED for node in model.graph.node):
        raise ExportError("the network has no convolution and no linear layer, so there is nothing to quantise")
    # Any: onnxruntime ships no types.
    from onnxruntime import quantization as ort

    prepared = ModelProto()
    prepared.CopyFrom(model)
    prepared.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])
    methods = {
        "min-max": ort.CalibrationMethod.MinMax,
        "percentile": ort.CalibrationMethod.Percentile,
        "entropy": ort.CalibrationMethod.Entropy,
    }
    options: dict[str, Any] = {
        "ActivationSymmetric": symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": not symmetric,
        "CalibPercentile": _PERCENTILE,
        "TensorQuantOverrides": {
            name: [
                {"quant_type": ort.QuantType.QInt8, "axis": axis, "scale": scale, "zero_point": 0} for scale in scales
            ]
            for name, (scales, axis) in (steps or {}).items()
        },
    }
    if symmetric:
        options["OpTypesToExcludeOutputQuantization"] = list(_WEIGHTED)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(prepared, source)
        ort.quantize_static(
            source,
            result,
            _Reader(model.graph.input[0], settings.images),
            op_types_to_quantize=list(_WEIGHTED if symmetric else (*_WEIGHTED, *_OTHERS)),
            per_channel=True,
            activation_type=ort.QuantType.QInt8 if symmetric else ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            calibrate_method=methods[settings.calibration],
            extra_options=options,
        )
        quantized = onnx.load(result)
    if symmetric:
        _share_pairs(quantized)
    return _restored(quantized, model)


class _Reader:
    """Hands out the calibration inputs, as many at a time as the model takes."""

    def __init__(self, value: onnx.ValueInfoProto, images: Array) -> None:
        dims = value.type.tensor_type.shape.dim
        size = dims[0].dim_value or min(32, max(1, len(images)))  # a dynamic batch: enough to keep the cores busy
        if tuple(dim.dim_value for dim in list(dims)[1:]) != images.shape[1:] or len(images) < size:
            raise ExportError(
                f"calibration was given {len(images)} inputs of {images.shape[1:]}; the file takes {size} at a time "
                f"of {tuple(dim.dim_value for dim in list(dims)[1:])}"
            )
        starts = range(0, len(images) - size + 1, size)
        self._batches = iter([{value.name: np.ascontiguousarray(images[start : start + size])} for start in starts])

    def get_next(self) -> Mapping[str, Array] | None:
        """The next batch by input name; None at the end."""
        return next(self._batches, None)


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what onnxruntime.quantization prints, and the advice it gives through the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
