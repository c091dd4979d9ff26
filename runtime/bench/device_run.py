"""Runs on an accelerator: inputs and outputs stay there, and a run has ended only when the device has."""

from collections.abc import Callable, Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from runtime.session import Session

__all__ = ["DEVICES", "BoundRun", "bind"]

DEVICES = {"cuda": "cuda", "tensorrt": "cuda"}
"""Provider of `runtime.bench.PROVIDERS` -> ONNX Runtime's name of the device that holds its tensors."""

BoundRun = Callable[[], Any]
"""Runs once and returns ONNX Runtime's binding (which ships no types), whose outputs lie on the device."""


def bind(session: Session, inputs: Mapping[str, NDArray[Any]], device: str) -> BoundRun:  # Any: uint8 or float32
    """Returns a function that runs the session once and waits for the device.

    Inputs are copied to the device here, once, and outputs stay there, so a run's time is that of the network alone.

    Args:
        session: Open on a provider of that device.
        inputs: Name -> array, all inputs.
        device: A value of `DEVICES`; or `cpu`, where nothing is copied anyway.
    """
    binding = session.onnx_session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
    for output in session.onnx_session.get_outputs():
        binding.bind_output(output.name, device)
    binding.synchronize_inputs()

    def run() -> Any:  # see BoundRun
        session.onnx_session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding

    return run
