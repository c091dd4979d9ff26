import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from exporters.functions import attach_functions
from exporters.passes.fold_constants import fold_constants

HEADER = '<ir_version: 10, opset_import: ["": 21, "compress": 1, "compress.torch": 1]>'


class Rewritten:
    """A small graph given as ONNX text, before and after passes."""

    def __init__(self, text, constants=None):
        self.before = onnx.parser.parse_model(HEADER + text)
        for name, value in (constants or {}).items():
            self.before.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        self.before = onnx.shape_inference.infer_shapes(self.before)
        self.graph = gs.import_onnx(self.before)
        fold_constants(self.graph)

    def ops(self):
        return sorted(node.op for node in self.graph.nodes)

    def node(self, op):
        (found,) = [node for node in self.graph.nodes if node.op == op]
        return found

    def outputs(self, feeds, *, after):
        model = gs.export_onnx(self.graph, do_type_check=False) if after else self.before
        model.ir_version = 10
        session = onnxruntime.InferenceSession(
            attach_functions(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(None, feeds)

    def assert_same_numbers(self, seed=0):
        generator = np.random.default_rng(seed)
        feeds = {
            value.name: generator.normal(size=[d.dim_value for d in value.type.tensor_type.shape.dim])
            for value in self.before.graph.input
        }
        feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
        pairs = zip(self.outputs(feeds, after=False), self.outputs(feeds, after=True), strict=True)
        for wanted, found in pairs:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))


@pytest.fixture
def rewritten():
    return Rewritten
