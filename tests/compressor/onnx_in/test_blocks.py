"""Residual blocks found in a flat graph."""

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from compressor.graph import trace
from compressor.onnx_in import ReadNetwork, build, read_network


def read(body: str, **weights: np.ndarray) -> ReadNetwork:
    text = f'<ir_version: 8, opset_import: ["": 21]> g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return read_network(made)


def kernel(out: int = 4, taken: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(out, taken, 3, 3)).astype(np.float32)


def blocks(found: ReadNetwork) -> list[str]:
    return [step.name for step in found.program.steps if step.body is not None]


SAME = "pads=[1,1,1,1]"


def test_names_without_a_common_beginning_get_one() -> None:
    found = read(
        f"f = Conv<{SAME}>(x, u) a = Conv<{SAME}>(f, w) r = Relu(a) b = Conv<{SAME}>(r, v) s = Add(b, f) t = Relu(s)"
        f"y = Conv<{SAME}>(t, z)",
        u=kernel(seed=1),
        w=kernel(6, 4),
        v=kernel(4, 6),
        z=kernel(seed=2),
    )
    assert blocks(found) == ["block_1"]
    network = build(found.program)
    network.load_state_dict(found.state)
    graph = trace(network, torch.zeros(2, 4, 8, 8))
    assert [branch.name for branch in graph.branches] == ["block_1"]
    assert sum(name.startswith("block_1.") for name in found.state) == 2


def test_a_constant_goes_into_the_block_that_reads_it() -> None:
    found = read(
        f"a = Conv<{SAME}>(x, w) m = Mul(a, c) s = Add(m, x) y = Mul(s, c)",
        w=kernel(),
        c=np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1),
    )
    (name,) = blocks(found)
    network = build(found.program).eval()
    network.load_state_dict(found.state)
    assert {path.rpartition(".")[0] for path in found.state if "constant" in path} == {"", name}
    x = torch.randn(2, 4, 8, 8)
    scale = torch.arange(1.0, 5.0).reshape(4, 1, 1)
    with torch.no_grad():
        conv = torch.nn.functional.conv2d(x, torch.from_numpy(kernel()), padding=1)
        torch.testing.assert_close(network(x), (conv * scale + x) * scale)


def test_what_is_read_elsewhere_is_no_block() -> None:
    body = f"a = Conv<{SAME}>(x, w) b = Conv<{SAME}>(a, v) s = Add(b, x) y = Mul(s, a)"
    assert blocks(read(body, w=kernel(), v=kernel(seed=1))) == []


def test_a_sum_of_two_layers_of_the_same_value_is_one() -> None:
    body = f"z = Relu(x) a = Conv<{SAME}>(z, w) b = Conv<{SAME}>(z, v) s = Add(a, b) y = Relu(s)"
    assert blocks(read(body, w=kernel(), v=kernel(seed=1))) == ["block_1"]
