"""SparseConv in plain numpy, and one-node models of it without a function body: native kernels or nothing."""

from dataclasses import dataclass, replace

import native_reference
import numpy as np
from native_reference import FLOAT_MAX
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class SparseLayer:
    """One SparseConv node: kernels (K, C, kh, kw) whose rows outside `mask` (C, kh, kw) are absent, and attributes."""

    weight: np.ndarray
    mask: np.ndarray
    bias: np.ndarray
    strides: tuple = (1, 1)
    pads: tuple = (1, 1, 1, 1)
    dilations: tuple = (1, 1)
    lower: float = -FLOAT_MAX
    upper: float = FLOAT_MAX

    def constants(self):
        rows = self.mask.reshape(-1)
        columns = np.ascontiguousarray(self.weight.reshape(len(self.weight), -1)[:, rows])
        return {"W": columns, "P": np.packbits(rows, bitorder="little"), "B": self.bias}

    def attributes(self):
        names = ("strides", "pads", "dilations", "lower", "upper")
        shape = {"kernel_shape": self.mask.shape[1:], "in_channels": len(self.mask)}
        return shape | {name: getattr(self, name) for name in names}

    def changed(self, **changes):
        return replace(self, **changes)


def strided_mask(rng, channels, kernel, stride=2):
    """Per source map the taps q of the flattened kernel with q mod stride = a random offset."""
    taps = np.arange(kernel[0] * kernel[1])
    offsets = rng.integers(min(stride, len(taps)), size=channels)
    return (taps % stride == offsets[:, None]).reshape(channels, *kernel)


def make_sparse(rng, *, channels=8, outputs=12, kernel=(3, 3), mask=None, **attributes):
    mask = strided_mask(rng, channels, kernel) if mask is None else mask
    weight = rng.normal(size=(outputs, channels, *kernel)).astype(np.float32)
    weight = weight / np.sqrt(channels * kernel[0] * kernel[1], dtype=np.float32) * mask
    attributes.setdefault("pads", (kernel[0] // 2, kernel[1] // 2) * 2)
    return SparseLayer(weight, mask, rng.normal(size=outputs).astype(np.float32), **attributes)


def sparse_conv(layer, x):
    """(N, K, H', W') of NCHW planes, summed in float64."""
    sums = native_reference.convolve(np.moveaxis(x, 1, 3), layer.weight, layer)
    y = np.clip(sums + layer.bias, layer.lower, layer.upper)
    return np.moveaxis(y, 3, 1).astype(np.float32)


def sparse_model(layer, *, shape=("N", "C", "H", "W"), computed=(), **attributes):
    """A model of one SparseConv node; `computed` constants become graph inputs, `attributes` override the layer's."""
    constants = layer.constants()
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, shape)]
    inputs += [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in constants.items()
        if name in computed
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items() if name not in computed]
    kept = {name: value for name, value in (layer.attributes() | attributes).items() if value is not None}
    node = helper.make_node("SparseConv", ["X", *constants], ["Y"], name="sparse", domain="compress", **kept)
    outputs = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph([node], "model", inputs, outputs, initializers)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("compress", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()
