import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import models
from models import ModelError


@pytest.mark.parametrize("name", models.names())
def test_every_own_network_takes_its_input_size_and_trains(name: str) -> None:
    channels, height, width = models.input_size(name)
    model = models.build(name, num_classes=7)
    logits = model(torch.randn(2, channels, height, width))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, f"no gradient for {without}"


@pytest.mark.parametrize("name", models.names())
def test_every_own_network_takes_other_channel_counts(name: str) -> None:
    channels, height, width = models.input_size(name, in_channels=2)
    assert channels == 2
    assert models.build(name, in_channels=2).eval()(torch.randn(1, 2, height, width)).shape == (1, 10)


@pytest.mark.parametrize("name", models.names())
def test_convolutions_have_a_bias_where_no_batch_norm_would_remove_it(name: str) -> None:
    modules = list(models.build(name).modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    normalised = any(isinstance(module, nn.BatchNorm2d) for module in modules)
    assert convolutions or name == "lenet300100"
    assert all((convolution.bias is None) == normalised for convolution in convolutions)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet", "inception_v3"])
def test_torchvision_classifiers_give_logits_in_training_mode(name: str) -> None:
    # On the meta device: shapes are what is tested, and these networks are large.
    with torch.device("meta"):
        model = models.build(f"torchvision:{name}", num_classes=5)
        size = models.input_size(f"torchvision:{name}")
        assert model.train()(torch.zeros(2, *size)).shape == (2, 5)


def test_torchvision_networks_keep_the_size_of_their_published_weights() -> None:
    assert models.input_size("torchvision:resnet18") == (3, 224, 224)
    assert models.input_size("torchvision:inception_v3") == (3, 299, 299)


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(
        "from torch import nn\n"
        "def small(width=4):\n"
        "    net = nn.Sequential(nn.Conv2d(3, width, 3))\n"
        "    net.input_size = (3, 8, 8)\n"
        "    return net\n"
        "def sizeless():\n"
        "    return nn.Identity()\n"
        "def number():\n"
        "    return 3\n"
        "def failing():\n"
        "    raise OSError('disk on fire')\n"
        "def leaving():\n"
        "    raise SystemExit(0)\n"
    )
    return path


def test_a_users_factory_is_called_with_the_arguments(user_file: Path) -> None:
    model = models.build(f"{user_file}:small", width=6)
    assert isinstance(model, nn.Sequential)
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 6, 6, 6)
    assert models.input_size(f"{user_file}:small") == (3, 8, 8)


def test_a_users_file_may_import_its_neighbours(user_file: Path) -> None:
    path = user_file.with_name("more.py")
    path.write_text("from nets import small as tiny\n")
    before = list(sys.path)
    assert isinstance(models.build(f"{path}:tiny"), nn.Sequential)
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("resnet2", "did you mean 'resnet20'?.*cifarnet, digitsnet"),
        ("", "choose from: cifar10_quick, cifarnet"),
        ("torchvision:resnet81", "near names: .*resnet18"),
        ("torchvision:fcn_resnet50", "no classifier"),
        ("nowhere.py:small", "no file nowhere.py"),
        ("cifarnet:x", "torchvision:NAME or file.py:factory"),
    ],
)
def test_an_unknown_network_is_one_line_with_what_is_allowed(spec: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected) as caught:
        models.build(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("smal", "did you mean 'small'?"),
        ("number", "returned a int"),
        ("failing", "OSError: disk on fire"),
        ("leaving", "SystemExit: 0"),
        ("sizeless", "input_size = "),
    ],
)
def test_a_users_factory_that_fails_says_why(user_file: Path, factory: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        models.input_size(f"{user_file}:{factory}")


def test_a_users_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def net(:\n")
    with pytest.raises(ModelError, match=r"broken\.py failed while it was imported: SyntaxError"):
        models.build(f"{path}:net")


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ModelError, match="cannot build 'cifarnet' with width=3"):
        models.build("cifarnet", width=3)


def test_layers_without_a_size_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lazy.py"
    path.write_text(
        "import torch\nfrom torch import nn\n"
        "def lazy(): return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(4))\n"
        "def run():\n    net = lazy()\n    net(torch.zeros(1, 1, 8, 8))\n    return net\n"
    )
    with pytest.raises(ModelError, match=r"layers without a size yet \(2\.weight, 2\.bias\)"):
        models.build(f"{path}:lazy")
    assert models.build(f"{path}:run")[2].in_features == 72
