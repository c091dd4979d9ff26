"""Batch norms behind convolutions that have none: the network computes what it did, and they can be folded again."""

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from compressor.onnx_in import (
    ReadNetwork,
    batch_norm_state,
    build,
    convolutions_without,
    measure,
    read_network,
    with_batch_norms,
)

BODY = """
a = Conv<pads=[1,1,1,1]>(x, w, b)
r = Relu(a)
c = Conv<pads=[1,1,1,1]>(r, v)
s = Add(c, x)
n = BatchNormalization(s, g, g, g, g)
d = Conv(n, u)
y = BatchNormalization(d, g, g, g, g)
"""


def network() -> ReadNetwork:
    text = f'<ir_version: 8, opset_import: ["": 21]> g (float[N,4,8,8] x) => (float[N,4,6,6] y) {{ {BODY} }}'
    made = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(6, 4, 3, 3)),
        "b": random.normal(size=6),
        "v": random.normal(size=(4, 6, 3, 3)),
        "u": random.normal(size=(4, 4, 3, 3)),
        "g": random.uniform(0.5, 1.5, size=4),
    }
    for name, value in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return read_network(made)


def test_the_network_computes_what_it_did() -> None:
    read = network()
    model = build(read.program).eval()
    model.load_state_dict(read.state)
    bare = convolutions_without(read.program)
    assert len(bare) == 2, "the third has a batch norm of its own"
    images = [torch.randn(5, 4, 8, 8) for _ in range(3)]
    moments = measure(model, bare, images)
    normed = build(with_batch_norms(read.program, bare)).eval()
    normed.load_state_dict(batch_norm_state(read.state, moments))
    assert convolutions_without(with_batch_norms(read.program, bare)) == ()
    with torch.no_grad():
        wanted = model(images[0])
        torch.testing.assert_close(normed(images[0]), wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)


def test_the_statistics_are_those_of_the_images() -> None:
    read = network()
    model = build(read.program).eval()
    model.load_state_dict(read.state)
    (first, *_) = convolutions_without(read.program)
    images = torch.randn(8, 4, 8, 8)
    moments = measure(model, [first], [images[:3], images[3:]])
    conv = model.get_submodule(first)
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        out = nn.functional.conv2d(images, conv.weight, padding=1)
    torch.testing.assert_close(moments[first].mean, out.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moments[first].variance, out.var((0, 2, 3), correction=0), atol=1e-5, rtol=1e-4)
