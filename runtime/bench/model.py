"""A model opened for measuring: what the worker needs to know of a session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.bench.inputs import InputInfo
from runtime.errors import RuntimeLibraryError
from runtime.results import BenchmarkError
from runtime.session import Session

__all__ = ["BenchmarkModel", "open_model"]


# What a provider loads when it starts, besides onnxruntime-gpu itself.
_LIBRARIES = {
    "CUDAExecutionProvider": "an NVIDIA driver, CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')",
    "TensorrtExecutionProvider": "an NVIDIA driver, CUDA, cuDNN and TensorRT (pip install tensorrt)",
}


@dataclass(frozen=True)
class BenchmarkModel:
    """An open session with its description.

    Attributes:
        session: The session to be measured.
        inputs: What the model wants.
        metadata: The file's metadata_props.
    """

    session: Session
    inputs: tuple[InputInfo, ...]
    metadata: Mapping[str, str]


def open_model(
    path: str,
    *,
    stock: bool,
    isa: str | None,
    providers: Sequence[str],
    threads: int,
    profile_prefix: str | None = None,
) -> BenchmarkModel:
    """Opens a model as a user would.

    Raises:
        BenchmarkError: The file is not a model, the instruction set is not there, or the provider does not
            start. In the last case ONNX Runtime would go on without it, and the CPU's time would pass for the
            device's.
    """
    try:
        session = Session(
            path, threads=threads, isa=isa, stock=stock, providers=providers, profile_prefix=profile_prefix
        )
    except RuntimeLibraryError as error:
        # The parent puts the candidate's name in front.
        raise BenchmarkError(str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")) from error
    started = session.onnx_session.get_providers()
    if providers[0] not in started:
        raise BenchmarkError(
            f"ONNX Runtime could not start {providers[0]}; it offers {', '.join(started)} instead; "
            f"install {_LIBRARIES.get(providers[0], 'what it needs')}"
        )
    inputs = tuple(InputInfo(i.name, i.type, tuple(i.shape)) for i in session.onnx_session.get_inputs())
    metadata = dict(session.onnx_session.get_modelmeta().custom_metadata_map)
    return BenchmarkModel(session, inputs, metadata)
