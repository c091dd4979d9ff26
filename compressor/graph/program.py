"""A network as `torch.export` sees it; a failure names the line of the network's own code."""

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from compressor.errors import GraphError

__all__ = ["Example", "arguments", "blamed_frames", "export", "quiet"]

# One tensor, positional inputs as a tuple, or keyword inputs as a mapping; inputs may be nested.
Example = torch.Tensor | tuple[Any, ...] | Mapping[str, Any]
_TORCH = str(Path(torch.__file__).parent)


def arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns (positional, keyword) inputs of an example: a tensor, a tuple or a mapping of keyword inputs."""
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example), {}


def export(
    model: nn.Module, example: Example, *, training: bool = False, strict: Sequence[bool] = (False, True)
) -> tuple[ExportedProgram, bool]:
    """Returns (the exported program of a network, whether strictly); the network itself stays as it was.

    Args:
        model: any module.
        example: inputs, see `Example`.
        training: export the training instead of the evaluation path; a batch of one is doubled.
        strict: torch's ways of exporting to try, in this order.

    Raises:
        GraphError: the network cannot be exported; the message names the line.
    """
    args, kwargs = arguments(example)
    if training:
        args, kwargs = pytree.tree_map_only(torch.Tensor, _at_least_two, (args, kwargs))
    first: Exception | None = None
    with _mode(model, training), torch.no_grad(), warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # torch's own remarks about its exporter
        for way in strict:
            try:
                return torch.export.export(model, args, kwargs, strict=way), way
            except Exception as error:  # torch raises many unrelated classes here, the network's own errors among them
                first = first or error
    assert first is not None
    raise GraphError(_message(model, first)) from first


def blamed_frames(error: BaseException) -> list[tuple[str, int, str]]:
    """Returns (file, line, text) of the frames outside torch on the way to an error, outermost first."""
    frames: list[tuple[str, int, str]] = []
    seen: BaseException | None = error
    while seen is not None:
        for frame in traceback.extract_tb(seen.__traceback__):
            own = not frame.filename.startswith((_TORCH, "<")) and Path(frame.filename).parent != Path(__file__).parent
            if own and frame.lineno is not None:
                frames.append((frame.filename, frame.lineno, frame.line or ""))
        seen = seen.__cause__ or seen.__context__
    return frames


@contextlib.contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporter's own log of failed attempts off the terminal; the error says what matters.

    A dozen loggers of torch tell of one failure, and `torch.export` prints the graph so far to standard error besides.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _at_least_two(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() > 1 and tensor.shape[0] == 1 else tensor


def _message(model: nn.Module, error: Exception) -> str:
    frames = blamed_frames(error)
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    at = ""
    if frames:
        file, line, code = frames[-1]
        at = f" at {Path(file).name}:{line} `{code}`"
    return (
        f"{type(model).__name__} cannot be traced{at}: {text}; torch.export must be able to follow the network: "
        "keep Python decisions that depend on tensor values, .item() and foreign libraries out of forward"
    )
