"""Checkpoints: everything needed to rebuild a network, in a file without code.

A `.pt` that `torch.load(weights_only=True)` accepts: one dictionary of plain values and tensors.

    format        "compressor", and `version` 1; 2 where weights are in fixed point
    architecture  what `models.build` takes, with `architecture_kwargs`; `onnx:NAME` for a network out of an ONNX file,
                  whose steps are the kwargs' `program`; empty for a network given in Python
    preprocessing mean, std, size            classes   their names
    plan          what was cut away, or None
    method        what was attached, with `method_settings` and `density`, or None
    state         the network's state dict   record    metrics, seed, command
    fixed_point   bits and steps of weights whose levels, int8, the state holds, or None
"""

import copy
import json
import pickle
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from compressor import methods
from compressor.data import Preprocessing
from compressor.data.files import whole_file
from compressor.errors import CheckpointError
from compressor.graph import trace
from compressor.onnx_in import build, program_from_json
from compressor.plan import plan_from_json
from compressor.quantise import from_levels, to_stored
from compressor.shrink import shrink

__all__ = ["ONNX", "CompressedCheckpoint", "adopt", "base_network", "load", "rebuild", "save"]

ONNX = "onnx:"
"""What `architecture` begins with where the network came from an ONNX file."""

_FORMAT = "compressor"
_VERSION = 1
_FIXED_POINT_VERSION = 2  # an older release would take levels for weights
_ADVICE = "give a checkpoint of 'compress train' or 'compress prune', or make one of weights with 'compress adopt'"
_NAMED = 3  # entries that a complaint names one by one
# What an entry has to be; the others are looked at where they are used.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "architecture": str,
    "architecture_kwargs": dict,
    "preprocessing": dict,
    "classes": (list, tuple),
    "state": dict,
    "record": dict,
}


@dataclass(frozen=True)
class CompressedCheckpoint:
    """A trained network as plain values.

    Attributes:
        architecture: What `models.build` takes: a name, `torchvision:NAME` or `file.py:factory`; `onnx:NAME` for a
            network out of an ONNX file; empty for one given in Python.
        architecture_kwargs: Its arguments, JSON values.
        preprocessing: How images become inputs.
        classes: One name per output; empty where they are not known.
        state: State dict, float tensors all finite.
        plan: {"steps": pruning plans as JSON values, in order}; None where nothing was cut.
        method: Name of the method attached to the network; None for a plain one.
        method_settings: Its fields, JSON values.
        density: Part of the channels that stay live, 0 to 1; None where the method has no density.
        record: Metrics, seed, command: JSON values.
        fixed_point: Bits and steps of the fixed-point weights, see `compressor.quantise.describe`; `state` holds their
            float values. None where there are none.
        base: The network before any cut, where it was given in Python and `architecture` is empty; never stored.
        path: The file it was read from, or None; never stored.
    """

    architecture: str
    architecture_kwargs: dict[str, Any]  # JSON values
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    state: dict[str, torch.Tensor]
    plan: dict[str, Any] | None = None  # JSON values
    method: str | None = None
    method_settings: dict[str, Any] | None = None  # JSON values
    density: float | None = None
    record: dict[str, Any] = field(default_factory=dict)  # JSON values
    fixed_point: dict[str, Any] | None = None  # JSON values
    base: nn.Module | None = None
    path: Path | None = None


_STORED = [entry.name for entry in fields(CompressedCheckpoint) if entry.name not in ("base", "path")]


def save(checkpoint: CompressedCheckpoint, path: Path) -> None:
    """Writes the checkpoint, whole or not at all.

    Raises:
        CheckpointError: A weight is not finite, or is described as fixed-point and is not.
        TypeError: A value is not plain.
        OSError: The folder is absent or may not be written to.
    """
    _check_finite(checkpoint.state, "the network")
    values = {name: getattr(checkpoint, name) for name in _STORED}
    state = values.pop("state")
    version = _VERSION
    if checkpoint.fixed_point is not None:
        version = _FIXED_POINT_VERSION
        try:
            state = to_stored(checkpoint.fixed_point, state)
        except ValueError as error:
            raise CheckpointError(f"the network is not in fixed point as described: {error}") from error
    values["preprocessing"] = checkpoint.preprocessing.to_json()
    # Through JSON, so that what is read back is what was written and the file opens without running code.
    values = json.loads(json.dumps({"format": _FORMAT, "version": version, **values}))
    values["state"] = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with whole_file(path) as file:
        torch.save(values, file)


def load(path: Path) -> CompressedCheckpoint:
    """Returns what `save` wrote; nothing in the file is executed.

    Raises:
        CheckpointError: The file is absent, cut short, not a checkpoint of this project, of another version,
            or has weights that are not finite.
    """
    values = _read(path)
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint but {_kind(values)}; {_ADVICE}")
    if (came := values.get("version")) not in (_VERSION, _FIXED_POINT_VERSION):
        raise CheckpointError(
            f"{path} has format version {came}; this release reads version {_VERSION} or {_FIXED_POINT_VERSION}"
        )
    values.setdefault("fixed_point", None)  # earlier releases did not write it
    if missing := [name for name in _STORED if name not in values]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it was not written by this release")
    if wrong := [name for name, kind in _TYPES.items() if not isinstance(values[name], kind)]:
        raise CheckpointError(f"{path} is damaged: {', '.join(wrong)} not of the right type; make it again")
    # torch does not compare the checksums that it wrote, and would take changed bytes for weights.
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {damaged} does not fit; make it again")
    if values["fixed_point"] is not None:
        try:
            values["state"] = from_levels(values["fixed_point"], values["state"])
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}; make it again") from error
    _check_finite(values["state"], str(path))
    arguments = {name: values[name] for name in _STORED}
    try:
        arguments["preprocessing"] = Preprocessing.from_json(values["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its preprocessing lacks mean, std or size; make it again") from error
    arguments["classes"] = tuple(values["classes"])
    arguments["architecture"] = _found_beside(path, values["architecture"])
    return CompressedCheckpoint(**arguments, path=path)


def _found_beside(path: Path, architecture: str) -> str:
    """`file.py:factory` whose file is not there, seen from here, but is seen from the checkpoint's folder."""
    file, _, factory = architecture.rpartition(":")
    if not file.endswith(".py") or Path(file).is_file() or not (path.parent / file).is_file():
        return architecture
    return f"{path.parent / file}:{factory}"


def adopt(
    path: Path,
    *,
    architecture: str,
    architecture_kwargs: dict[str, Any],  # JSON values
    preprocessing: Preprocessing,
    unsafe_pickle: bool = False,
) -> CompressedCheckpoint:
    """Returns a checkpoint made of weights from elsewhere: a state dict, or a pickled network.

    A state dict may lie under `state_dict` or `model`, as training scripts store it, and its names may all begin with
    `module.`, as `DistributedDataParallel` has them.

    Args:
        path: A file that `torch.save` wrote.
        architecture: What the weights belong to.
        architecture_kwargs: Its arguments.
        preprocessing: What the network was trained with.
        unsafe_pickle: Open pickled networks too. Such a file can run any code: only for files you trust.

    Raises:
        CheckpointError: The file is absent, cut short, or holds neither; or the weights are not finite or
            do not fit the architecture.
    """
    values = _read(
        path, unsafe_pickle=unsafe_pickle, advice="store its state_dict(), or add --unsafe-pickle if you trust it"
    )
    state = _unwrapped(values)
    if not _is_state_dict(state):
        raise CheckpointError(f"{path} is not a state dict but {_kind(values)}; {_ADVICE}")
    _check_finite(state, str(path))
    checkpoint = CompressedCheckpoint(architecture, architecture_kwargs, preprocessing, (), state)
    rebuild(checkpoint)
    return checkpoint


def rebuild(checkpoint: CompressedCheckpoint) -> nn.Module:
    """Returns the network in evaluation mode: architecture built, method attached, state loaded strictly.

    Every cut of the plan is replayed on the channel graph of what the one before left. An architecture
    `file.py:factory` runs that file.

    Raises:
        CheckpointError: The state does not fit, with the first missing, unexpected and misshapen entries and how many
            there are; or the network was given in Python and is not at hand.
        PlanError: The plan does not fit the architecture.
        ModelError: The architecture cannot be built here.
        MethodError: The method does not exist here or refuses its settings.
    """
    model = base_network(checkpoint)
    for plan in (checkpoint.plan or {"steps": []})["steps"]:
        graph = trace(model.eval(), torch.zeros(2, *checkpoint.preprocessing.size))
        model = shrink(model, graph, plan_from_json(json.dumps(plan)))
    if checkpoint.method is not None:
        settings = dict(checkpoint.method_settings or {})
        if checkpoint.density is not None:
            settings["density"] = checkpoint.density
        method = methods.get(checkpoint.method)(**settings)
        model = method.attach(model, torch.zeros(2, *checkpoint.preprocessing.size))
    problems = _misfits(model.state_dict(), checkpoint.state)
    if problems:
        raise CheckpointError(f"the weights do not fit {checkpoint.architecture}: {'; '.join(problems)}")
    model.load_state_dict(checkpoint.state, strict=True)
    return model.eval()


def base_network(checkpoint: CompressedCheckpoint) -> nn.Module:
    """Returns the network before any cut and method, with weights that do not matter.

    Raises:
        CheckpointError: It was given in Python and is not at hand, or its description is damaged.
        ModelError: The architecture cannot be built here.
    """
    if checkpoint.base is not None:
        return copy.deepcopy(checkpoint.base)
    if not checkpoint.architecture:
        raise CheckpointError(
            "the checkpoint was made from a network given in Python: open it there, with "
            "compressor.load(path, model), or name the network as file.py:factory when it is compressed"
        )
    if checkpoint.architecture.startswith(ONNX):
        return build(program_from_json(checkpoint.architecture_kwargs.get("program", {})))
    if checkpoint.path is not None:
        _check_file(checkpoint.path, checkpoint.architecture)
    return models.build(checkpoint.architecture, **checkpoint.architecture_kwargs)


def _check_file(path: Path, architecture: str) -> None:
    """Raises CheckpointError where the network of the checkpoint `path` is a `file.py:factory` that is not at hand."""
    file = Path(architecture.rpartition(":")[0])
    if file.suffix != ".py" or file.is_file():
        return
    places = list(dict.fromkeys(str((folder / file).resolve()) for folder in (Path.cwd(), path.parent)))
    raise CheckpointError(
        f"{path} was made of the network '{architecture}', and there is no file {' or '.join(places)}; put it back, or "
        "run the command in the folder that its path begins in"
    )


# What the file holds is not known before it has been looked at, hence the Any.
def _read(path: Path, *, unsafe_pickle: bool = False, advice: str = _ADVICE) -> Any:
    """Returns what `torch.save` put into the file; refuses what would run code unless told otherwise."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}; give the path of a checkpoint")
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{path} is an ONNX file; make a checkpoint of it with 'compress adopt {path.name} -o m.pt'"
        )
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is not a complete checkpoint: it was cut short, or has another format")
    try:
        return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is a pickle that would run code when opened; {advice}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _kind(values: Any) -> str:
    if _is_state_dict(values):
        return "a bare state dict"
    if isinstance(values, dict):
        return f"a dictionary with {', '.join(map(str, list(values)[:5])) or 'nothing in it'}"
    return f"a {type(values).__name__}"


def _unwrapped(values: Any) -> Any:
    """The state dict inside what a training script stored; `values` itself where there is none."""
    for name in ("state_dict", "model"):
        if isinstance(values, dict) and isinstance(values.get(name), dict | nn.Module):
            values = values[name]
    if isinstance(values, nn.Module):
        values = values.state_dict()
    if _is_state_dict(values) and all(name.startswith("module.") for name in values):
        values = {name.removeprefix("module."): value for name, value in values.items()}
    return dict(values) if isinstance(values, dict) else values


def _is_state_dict(values: Any) -> bool:
    return isinstance(values, dict) and bool(values) and all(map(torch.is_tensor, values.values()))


def _check_finite(state: dict[str, torch.Tensor], owner: str) -> None:
    wrong = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        raise CheckpointError(f"{owner} has weights that are not finite: {', '.join(wrong)}")


def _misfits(expected: dict[str, torch.Tensor], came: dict[str, torch.Tensor]) -> list[str]:
    problems = []
    if missing := sorted(set(expected) - set(came)):
        problems.append(f"missing {_first(missing)}")
    if unexpected := sorted(set(came) - set(expected)):
        problems.append(f"unexpected {_first(unexpected)}")
    misshapen = [
        f"{name} is {tuple(came[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(came))
        if expected[name].shape != came[name].shape
    ]
    if misshapen:
        problems.append(_first(misshapen))
    return problems


def _first(texts: list[str]) -> str:
    """The first few and how many more, in one line."""
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")
