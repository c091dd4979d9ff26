"""The ways an exported file can be run here: stock ONNX Runtime, and our library on every instruction set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

import runtime
from exporters import opset

__all__ = ["Array", "ExecutionPath", "Runner", "execution_paths"]

THREADS = 2
"""Enough to run the kernels' division of work; more would only spin beside the sessions of the other paths."""

Array = npt.NDArray[Any]
"""What goes into a file: normalised float32, or uint8 images where it preprocesses them itself."""

Runner = Callable[[Array], list[npt.NDArray[Any]]]  # outputs are float32, winners int64
"""Runs the one input through an open session; all graph outputs in order."""


@dataclass(frozen=True)
class ExecutionPath:
    """`name` is stock or an instruction set; `open` makes a session of a file and returns its runner."""

    name: str
    open: Callable[[Path], Runner]


def execution_paths(ops: Sequence[str]) -> list[ExecutionPath]:
    """Stock first; then, for files with `compress` ops, every instruction set that runs here.

    Args:
        ops: Names of the ops in the file, `compress.` in front of our own.
    """
    paths = [ExecutionPath("stock", _open_stock)]
    if any(name.startswith(f"{opset.DOMAIN}.") for name in ops) and runtime.library_path() is not None:
        paths += [
            ExecutionPath(isa.name, _open_native(isa.name)) for isa in runtime.isas() if isa.built and isa.supported
        ]
    return paths


def _open_stock(path: Path) -> Runner:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda values: list(session.run(None, {name: values}))


def _open_native(isa: str) -> Callable[[Path], Runner]:
    def opened(path: Path) -> Runner:
        session = runtime.Session(path, threads=THREADS, isa=isa)
        return lambda values: list(session.run([values]))

    return opened
