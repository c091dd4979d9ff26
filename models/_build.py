"""From a text to a network: own names, `torchvision:NAME`, `file.py:factory`."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn.parameter import is_lazy

from models._errors import ModelError

__all__ = ["build", "input_size", "names"]

# Keyword arguments go to the network's own factory, so their types are the factory's.
Factory = Callable[..., nn.Module]

# torchvision networks that take arguments which make building them slow (truncated-normal initialisation
# through scipy) or their output a tuple in training (auxiliary classifiers).
_TORCHVISION_EXTRAS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}


def names() -> list[str]:
    """Returns the names of the project's own networks, sorted."""
    return sorted(_own_factories())


def build(spec: str, **kwargs: Any) -> nn.Module:
    """Returns an untrained network.

    Args:
        spec: A name from `names()`, `torchvision:NAME`, or `path/to/file.py:factory`.
        **kwargs: Handed to the factory; the project's own take `num_classes` and `in_channels`.

    Raises:
        ModelError: The name, the file or the function does not exist, or does not take these arguments; or the network
            has layers that learn their size from the first input.
    """
    kind, factory, extras = _factory(spec)
    try:
        model = factory(**{**extras, **kwargs})
    except TypeError as error:
        raise ModelError(f"cannot build '{spec}' with {_call(kwargs)}: {error}") from error
    except (Exception, SystemExit) as error:
        if kind != "file":
            raise ModelError(f"cannot build '{spec}' with {_call(kwargs)}: {error}") from error
        raise ModelError(f"the factory of '{spec}' failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"'{spec}' returned a {type(model).__name__}; a factory must return a torch.nn.Module")
    lazy = [path for path, value in (*model.named_parameters(), *model.named_buffers()) if is_lazy(value)]
    if lazy:
        raise ModelError(
            f"'{spec}' has layers without a size yet ({', '.join(lazy[:3])}); give them their number of inputs, or run "
            "the network on one input in its factory"
        )
    return model


def input_size(spec: str, **kwargs: Any) -> tuple[int, int, int]:
    """Returns (channels, height, width) that the network is made for.

    Raises:
        ModelError: As `build`; or a user's network has no attribute `input_size`.
    """
    kind, _, _ = _factory(spec)
    if kind == "torchvision":
        return _torchvision_input_size(spec.partition(":")[2])
    with torch.device("meta"):
        model = build(spec, **kwargs)
    size = getattr(model, "input_size", None)
    if not (isinstance(size, tuple) and len(size) == 3 and all(isinstance(side, int) for side in size)):
        raise ModelError(
            f"'{spec}' does not say its input size; set `self.input_size = (channels, height, width)` in it"
        )
    return size


def _factory(spec: str) -> tuple[str, Factory, dict[str, Any]]:
    """Returns the kind ('own', 'torchvision', 'file'), the factory, and arguments that the kind needs."""
    prefix, colon, name = spec.rpartition(":")
    if colon and prefix == "torchvision":
        return (
            "torchvision",
            _torchvision_factory(name),
            {"weights": None, **_TORCHVISION_EXTRAS.get(name, {})},
        )
    if colon and prefix.endswith(".py"):
        return "file", _file_factory(Path(prefix), name), {}
    own = _own_factories()
    if not colon and spec in own:
        return "own", own[spec], {}
    forms = "or give torchvision:NAME or file.py:factory"
    raise ModelError(f"unknown network '{spec}'; {_choices(spec, sorted(own))}, {forms}")


def _own_factories() -> dict[str, Factory]:
    factories: dict[str, Factory] = {}
    for module_info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module_info.name.startswith("_"):
            family = importlib.import_module(f"models.{module_info.name}")
            factories.update({name: getattr(family, name) for name in family.__all__})
    return factories


def _torchvision_factory(name: str) -> Factory:
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if name not in classifiers:
        near = get_close_matches(name, classifiers, n=5, cutoff=0.5) or [
            "resnet18",
            "mobilenet_v2",
            "vgg16_bn",
        ]
        raise ModelError(f"torchvision has no classifier '{name}'; near names: {', '.join(near)}")
    builder: Factory = torchvision.models.get_model_builder(name)
    return builder


def _torchvision_input_size(name: str) -> tuple[int, int, int]:
    _torchvision_factory(name)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    side = int(weights.transforms().crop_size[0])
    return 3, side, side


def _file_factory(path: Path, name: str) -> Factory:
    if not path.is_file():
        raise ModelError(f"no file {path}; give file.py:factory with a path that exists")
    module_spec = importlib.util.spec_from_file_location(f"_user_networks_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ModelError(f"{path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(module_spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # as Python does for a file that it runs: it may import its neighbours
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path} failed while it was imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [n for n, value in vars(module).items() if inspect.isroutine(value) and not n.startswith("_")]
        raise ModelError(f"{path} has no function '{name}'; {_choices(name, own)}")
    chosen: Factory = factory
    return chosen


def _choices(wrong: str, allowed: list[str]) -> str:
    near = get_close_matches(wrong, allowed, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}choose from: {', '.join(allowed) or '(nothing there)'}"


def _call(kwargs: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items()) or "no arguments"
