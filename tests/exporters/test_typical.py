"""Int8 files with FBS layers: rounding passes, also where it changes winners; a wrong layer does not."""

import copy

import numpy as np
import onnx
import pytest
import tiny_networks as tiny
import torch
from onnx import helper, numpy_helper

import exporters
from exporters import opset
from exporters.comparison import torch_outputs
from exporters.int8 import Int8Settings
from exporters.typical import MOST_REGRET, TYPICAL_TOLERANCE
from exporters.verify import INT8_TOLERANCE, verify
from exporters.winners import record_winners

SHAPE = (3, 12, 10)
EXAMPLE = torch.zeros(1, *SHAPE)
IMAGES = np.random.default_rng(0).normal(size=(32, *SHAPE)).astype(np.float32)
INPUTS = {"images": IMAGES}
SETTINGS = Int8Settings("min-max", IMAGES)
NETWORKS = {"chain": tiny.Chain, "residual": tiny.Residual, "inverted": tiny.Inverted, "separable": tiny.Separable}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typical")
    made = {}
    for name, network in NETWORKS.items():
        model = tiny.with_fbs(tiny.settled(network())).eval()
        made[name] = model, folder / f"{name}.onnx"
        exporters.export(model, EXAMPLE, made[name][1], batch="dynamic", int8=SETTINGS)
    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sound_file_passes_on_every_path(files, name):
    model, path = files[name]
    report = verify(model, path, INPUTS, batches=(1, 8))
    assert report.passed
    assert report.tolerance == TYPICAL_TOLERANCE
    assert {(entry.path, entry.batch) for entry in report.typical} == {(p, b) for p in report.paths for b in (1, 8)}
    assert all(entry.compared == len(IMAGES) for entry in report.typical)
    assert all(0 < entry.error < TYPICAL_TOLERANCE / 2 for entry in report.typical)


def test_images_whose_winners_change_do_not_fail_it_and_are_told(files):
    model, path = files["residual"]
    report = verify(model, path, INPUTS, batches=(8,))
    assert report.relative_error > INT8_TOLERANCE
    assert report.passed


def test_channels_that_are_alike_may_all_change_places(tmp_path):
    model = tiny.with_fbs(tiny.settled(tiny.Chain())).eval()
    first = model.features[0]
    with torch.no_grad():
        first.saliency_weight.zero_()
        first.saliency_bias.copy_(1 + 1e-3 * torch.arange(8))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.features[0].saliency_bias.copy_(first.saliency_bias.flip(0))
    exporters.export(other, EXAMPLE, tmp_path / "m.onnx", batch="dynamic", int8=SETTINGS)
    assert verify(model, tmp_path / "m.onnx", INPUTS, batches=(8,), every_isa=False).passed
    with torch.no_grad():
        other.features[0].saliency_bias.copy_(1 + first.saliency_bias.flip(0).sub(1).mul(200))
        first.saliency_bias.copy_(1 + first.saliency_bias.sub(1).mul(200))
    exporters.export(other, EXAMPLE, tmp_path / "m.onnx", batch="dynamic", int8=SETTINGS)
    assert not verify(model, tmp_path / "m.onnx", INPUTS, batches=(8,), every_isa=False).passed


def _times(factor):
    return lambda values: values * factor


def _moved(values):
    return np.roll(values, 1, axis=0)


BROKEN = {
    "steps of the kernels": ("S", _times(2)),
    "order of the kernels": ("W", _moved),
    "bias": ("B", _times(0)),
    "bias of the predictor": ("R", _times(0)),
    "order of the predictor's outputs": ("A", lambda values: np.roll(values, 1, axis=np.argmax(values.shape))),
    "zero point of the planes read": ("x_zero", lambda zero: 255 - zero // 2),
    "zero point of the planes written": ("y_zero", lambda zero: zero + 64),
    "step of the planes written": ("y_step", _times(2)),
}


def broken(path, what, layer):
    """The file with one thing wrong in one FBS layer."""
    name, change = BROKEN[what]
    model = onnx.load(path)
    node = [node for node in model.graph.node if opset.OPS.get(node.op_type) in opset.FBS_LAYERS][layer]
    for attribute in node.attribute:
        if attribute.name == name:
            value = change(helper.get_attribute_value(attribute))
            attribute.CopyFrom(helper.make_attribute(name, value))
            return model
    inputs = [tensor.name for tensor in opset.OPS[node.op_type].inputs]
    (held,) = (entry for entry in model.graph.initializer if entry.name == node.input[inputs.index(name)])
    values = numpy_helper.to_array(held)
    changed = numpy_helper.from_array(np.ascontiguousarray(change(values)).astype(values.dtype), f"{held.name}.broken")
    model.graph.initializer.append(changed)
    node.input[inputs.index(name)] = changed.name
    return model


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("what", BROKEN)
def test_a_file_with_a_wrong_layer_fails(files, tmp_path, what, layer):
    model, path = files["chain"]
    onnx.save(broken(path, what, layer), tmp_path / "m.onnx")
    report = verify(model, tmp_path / "m.onnx", INPUTS, batches=(8,), every_isa=False)
    assert not report.passed, [(entry.error, entry.regret) for entry in report.typical]


def test_wrong_winners_are_seen_by_their_saliency_alone(files, tmp_path):
    model, path = files["chain"]
    onnx.save(broken(path, "order of the predictor's outputs", 1), tmp_path / "m.onnx")
    report = verify(model, tmp_path / "m.onnx", INPUTS, batches=(8,), every_isa=False)
    assert {entry.layer for entry in report.typical} == {"features.3"}
    assert min(entry.regret for entry in report.typical) > MOST_REGRET


def test_a_file_that_is_not_finite_fails(files, tmp_path):
    model, path = files["chain"]
    file = onnx.load(path)
    (output,) = file.graph.output
    (last,) = (node for node in file.graph.node if output.name in node.output)
    last.output[0] = "finite"
    file.graph.node.append(helper.make_node("Log", ["finite"], [output.name]))  # NaN below 0
    onnx.save(file, tmp_path / "m.onnx")
    assert not verify(model, tmp_path / "m.onnx", INPUTS, batches=(8,), every_isa=False).passed


def test_all_other_files_are_judged_by_their_largest_difference(files, tmp_path):
    model, _ = files["chain"]
    exporters.export(model, EXAMPLE, tmp_path / "float.onnx")
    dense = tiny.settled(tiny.Chain()).eval()
    exporters.export(dense, EXAMPLE, tmp_path / "int8.onnx", int8=SETTINGS)
    assert verify(model, tmp_path / "float.onnx", every_isa=False).typical == ()
    report = verify(dense, tmp_path / "int8.onnx", INPUTS, batches=(1,), every_isa=False)
    assert (report.typical, report.tolerance) == ((), INT8_TOLERANCE)


def test_imposed_winners_take_the_place_of_a_networks_own(files):
    model, _ = files["chain"]
    with torch.no_grad():
        (own,) = torch_outputs(model, IMAGES)
        with record_winners(model) as layers:
            torch_outputs(model, IMAGES)
        with record_winners(model, {name: layer.winners for name, layer in layers.items()}):
            (same,) = torch_outputs(model, IMAGES)
        np.testing.assert_allclose(same, own, rtol=0, atol=1e-6 * np.abs(own).max())
        losers = np.array([np.setdiff1d(range(8), row) for row in layers["features.0"].winners])
        seen = []
        handle = model.features[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        with record_winners(model, {"features.0": losers}) as second:
            torch_outputs(model, IMAGES)
        handle.remove()
    np.testing.assert_array_equal(second["features.0"].winners, layers["features.0"].winners)
    alive = [np.flatnonzero(sample.abs().sum((1, 2)).numpy()) for sample in seen[0]]
    assert all(set(found) <= set(allowed) for found, allowed in zip(alive, losers.tolist(), strict=True))
