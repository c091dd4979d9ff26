"""Preprocessing inside the file: uint8 images in, the same numbers as compressor's own preprocessing."""

import numpy as np
import onnx
import pytest
import tiny_networks as tiny
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import exporters
import runtime
from compressor.data import Preprocessing
from compressor.data.small_images import normalise
from exporters import ExportError
from exporters.image_input import ImageInput, resize_matrix, torch_image_input
from exporters.verify import verify

MEAN, STD = (0.49, 0.45, 0.41), (0.2, 0.25, 0.3)
SIZE = (3, 12, 10)
# Pillow rounds to whole steps of 1/255 after each of its two passes; the graph does not round.
ROUNDED = 1.5 / 255 / min(STD)


def images(count, size, seed=0):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return (255 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def run(path, values):
    (output,) = runtime.Session(path, threads=1, stock=True).run([values.numpy()])
    return torch.from_numpy(output)


class Same(nn.Module):
    """Hands its input on, through an op that torch's exporter keeps."""

    def forward(self, x):
        return x * 1.0


def test_small_images_are_normalised_as_in_training(tmp_path):
    image = ImageInput(MEAN, STD, SIZE)
    result = exporters.export(Same(), torch.zeros(1, *SIZE), tmp_path / "m.onnx", image=image, batch="dynamic")
    given = images(4, SIZE[1:])
    expected = normalise(given.permute(0, 3, 1, 2), Preprocessing(MEAN, STD, SIZE))
    torch.testing.assert_close(run(result.path, given), expected, atol=1e-5, rtol=0)
    (value,) = onnx.load(result.path).graph.input
    assert value.name == "input"
    assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", 12, 10, 3]


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
@pytest.mark.parametrize("source", [(40, 31), (13, 60)])
def test_photos_are_resized_as_in_evaluation(tmp_path, target, source):
    from torchvision.transforms import v2

    resized = (round(12 * 256 / 224), round(10 * 256 / 224))
    image = ImageInput(MEAN, STD, SIZE, source=source, resized=resized)
    path = tmp_path / "m.onnx"
    exporters.export(Same(), torch.zeros(1, *SIZE), path, image=image, target=target)
    (given,) = images(1, source, seed=1)
    steps = [v2.Resize(list(resized), antialias=True), v2.CenterCrop(SIZE[1:]), v2.ToImage()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    expected = v2.Compose(steps)(Image.fromarray(given.numpy()))
    torch.testing.assert_close(run(path, given[None])[0], expected, atol=ROUNDED, rtol=0)
    torch.testing.assert_close(run(path, given[None]), torch_image_input(given[None], image), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "resized"), [(37, 16), (9, 16), (16, 16)])
def test_the_matrix_is_the_resize(size, resized):
    x = torch.rand(1, 1, size, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, size=(resized, 5), mode="bilinear", antialias=True)[0, 0]
    torch.testing.assert_close(torch.from_numpy(resize_matrix(size, resized)) @ x[0, 0], expected, atol=1e-6, rtol=0)
    np.testing.assert_array_equal(resize_matrix(size, resized, start=3, count=4), resize_matrix(size, resized)[3:7])


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_an_fbs_network_with_its_preprocessing_equals_torch(tmp_path, target):
    network = tiny.with_fbs(tiny.settled(tiny.Chain()))
    image = ImageInput(MEAN, STD, SIZE, source=(20, 24), resized=(14, 11))
    result = exporters.export(network, torch.zeros(1, *SIZE), tmp_path / "m.onnx", image=image, target=target)
    report = verify(network, result.path, {"photos": images(4, (20, 24)).numpy()}, batches=(1,))
    assert report.passed
    assert report.top1_agreement == 1.0
    assert not network._forward_pre_hooks
    assert exporters.inspect_onnx(result.path).metadata["input"] == image.to_json()


def test_without_resizing_nothing_but_one_multiply_and_add_is_left_before_an_fbs_layer(tmp_path):
    network = tiny.with_fbs(nn.Sequential(*tiny.block(3, 8)))
    image = ImageInput(MEAN, STD, SIZE)
    result = exporters.export(network, torch.zeros(1, *SIZE), tmp_path / "m.onnx", image=image)
    before = [node.op_type for node in onnx.load(result.path).graph.node][:4]
    assert before == ["Cast", "Mul", "Add", "FBSConv"], "channels stay last all the way"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": (0.5,)}, "does not fit 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "does not fit 3 channels"),
        ({"source": (20, 20)}, "need both"),
        ({"source": (20, 20), "resized": (8, 20)}, "cannot be cut out"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ExportError, match=message):
        ImageInput(**({"mean": MEAN, "std": STD, "size": SIZE} | arguments))


def test_preprocessing_for_another_size_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"the network takes \(3, 12, 10\), its preprocessing gives \(3, 8, 8\)"):
        exporters.export(Same(), torch.zeros(1, *SIZE), tmp_path / "m.onnx", image=ImageInput(MEAN, STD, (3, 8, 8)))
