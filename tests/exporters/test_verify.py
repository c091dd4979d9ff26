import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters import ExportError
from exporters.verify import verify


class Scaled(nn.Module):
    def __init__(self, factor=1.0, broken=False):
        super().__init__()
        self.factor, self.broken = factor, broken

    def forward(self, x):
        y = x * self.factor
        return torch.where(y > 2.0, torch.nan, y) if self.broken else y


def identity_file(path, batch="N", body="y = Identity(x)"):
    onnx.save(
        onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["": 21]> g (float[{batch},3,2] x) => (float[{batch},3,2] y) {{ {body} }}'
        ),
        path,
    )
    return path


def test_equal_file_passes_on_every_input_and_batch(tmp_path):
    report = verify(Scaled().train(), identity_file(tmp_path / "m.onnx"), batches=(1, 5))
    assert report.passed
    assert (report.max_error, report.relative_error, report.top1_agreement, report.near_ties) == (0.0, 0.0, 1.0, 0)
    assert report.paths == ("stock",)
    assert {c.batch for c in report.comparisons} == {1, 5}
    assert {"normal", "zeros", "extremes", "large"} <= {c.inputs for c in report.comparisons}
    assert json.loads(json.dumps(report.to_json()))["passed"] is True


def test_static_batch_fixes_the_size(tmp_path):
    report = verify(Scaled(), identity_file(tmp_path / "m.onnx", batch=4))
    assert {c.batch for c in report.comparisons} == {4}


def test_difference_is_relative_to_the_largest_output(tmp_path):
    path = identity_file(tmp_path / "m.onnx")
    assert verify(Scaled(1 + 5e-5), path).passed
    report = verify(Scaled(1.01), path)
    assert not report.passed
    assert report.relative_error == pytest.approx(0.01 / 1.01, rel=1e-4)


class Steep(nn.Module):
    """Raised to a high power: a rounding step of the input moves the output by as many."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return (x.abs() / 8).double().pow(3000).float() * self.factor


def steep_file(path):
    """The same of an input that was rounded."""
    body = (
        "s = Constant<value_float=0.125>() p = Constant<value = double {3000.0}>() "
        "e = Constant<value_float=1.0000001>() "
        "a = Abs(x) b = Mul(a, s) r = Mul(b, e) d = Cast<to=11>(r) c = Pow(d, p) y = Cast<to=1>(c)"
    )
    return identity_file(path, body=body)


def test_where_torch_moves_as_far_by_rounding_alone_a_difference_says_nothing(tmp_path):
    path = steep_file(tmp_path / "m.onnx")
    inputs = {"steep": np.full((1, 3, 2), 8.0, np.float32), "flat": np.zeros((1, 3, 2), np.float32)}
    report = verify(Steep(), path, inputs, batches=(1,))
    assert report.passed
    assert [c.ill_conditioned for c in report.comparisons] == [1, 0]
    assert report.ill_conditioned == 1
    far = verify(Steep(1.01), path, inputs, batches=(1,))
    assert not far.passed
    assert far.ill_conditioned == 0


def test_not_finite_in_torch_is_counted_and_left_out(tmp_path):
    report = verify(Scaled(broken=True), identity_file(tmp_path / "m.onnx"), batches=(8,))
    assert report.passed
    assert sum(c.not_finite for c in report.comparisons) > 0
    assert all(c.compared + c.not_finite == c.batch for c in report.comparisons)


def test_not_finite_in_the_file_alone_fails(tmp_path):
    path = identity_file(tmp_path / "m.onnx", body="z = Sub(x, x) y = Div(x, z)")
    assert not verify(Scaled(), path).passed


def test_nothing_to_compare_is_no_pass(tmp_path):
    assert not verify(Scaled(float("nan")), identity_file(tmp_path / "m.onnx")).passed


def test_given_inputs_are_cut_into_batches(tmp_path):
    images = {"test": np.ones((7, 3, 2), np.float32)}
    report = verify(Scaled(), identity_file(tmp_path / "m.onnx"), images, batches=(3,))
    assert [c.inputs for c in report.comparisons] == ["test 0", "test 3"]
    with pytest.raises(ExportError, match="at most 7 samples, the file takes 8 at a time"):
        verify(Scaled(), identity_file(tmp_path / "m.onnx"), images, batches=(8,))


def test_other_shape_is_refused(tmp_path):
    path = identity_file(tmp_path / "m.onnx", body="s = Constant<value_ints=[0, 6]>() y = Reshape(x, s)")
    with pytest.raises(ExportError, match="torch's outputs have the shapes"):
        verify(Scaled(), path)


def test_zeros_alone_are_no_pass(tmp_path):
    class OnlyZero(nn.Module):
        def forward(self, x):
            return torch.where(x == 0, x, torch.nan)

    report = verify(OnlyZero(), identity_file(tmp_path / "m.onnx"))
    assert sum(c.compared for c in report.comparisons) > 0
    assert not report.passed
