"""One model, ready to run: on the native kernels where it has layers for them and the library is built."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from runtime.errors import LibraryNotFoundError, SessionError
from runtime.isas import choose_isa
from runtime.library import isas, library_path
from runtime.model_file import ModelFile, read_model

__all__ = ["Session"]

# A node's op_type is field 4 of NodeProto, so 0x22, then the length, then the name. A function of that name is stored
# under another field, so this finds uses only. Reading the file's graph would need the onnx package.
_NATIVE_NODES = (
    *(b"\x22\x07FBSConv", b"\x22\x0bFBSConvInt8", b"\x22\x10FBSConvDepthwise"),
    *(b"\x22\x14FBSConvDepthwiseInt8", b"\x22\x06Unpack", b"\x22\x0aSparseConv"),
)
_QUANTIZE, _DEQUANTIZE = b"\x22\x0eQuantizeLinear", b"\x22\x10DequantizeLinear"
_ERROR_LEVEL = 3  # ONNX Runtime's log levels: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal


class Session:
    """A loaded model.

    >>> session = Session("fbs.onnx", threads=1)  # doctest: +SKIP
    >>> print(session.describe())  # doctest: +SKIP
    fbs.onnx: native kernels, avx512
    >>> logits, = session.run([image])  # doctest: +SKIP

    Attributes:
        path: The model's file.
        isa: Instruction set of the native kernels; None where everything runs on stock ONNX Runtime.
        warnings: One line for each thing that is slower than it could be; empty is good.
        onnx_session: ONNX Runtime's own session.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 0,
        isa: str | None = None,
        stock: bool = False,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        profile_prefix: str | None = None,
        map_weights: bool = True,
    ) -> None:
        """Loads a model.

        Weights that lie aligned in the file, as `compress export` writes them, are not loaded but mapped: a page of
        them comes into memory when it is first read. So the file must not be written to while the session lives, only
        replaced by another (`mv`, not `cp`).

        Args:
            path: An ONNX file.
            threads: Threads of ONNX Runtime's pool; 0 takes one a core.
            isa: Instruction set of the native kernels; None takes the best one here.
            stock: Run FBS and sparse layers on the function bodies the file carries, even where the library is built.
            providers: ONNX Runtime's execution providers, the preferred one first.
            profile_prefix: Start of the name of the file that ONNX Runtime writes each node's times to; None writes
                none. `onnx_session.end_profiling()` finishes it and returns its name.
            map_weights: False loads all of the file into memory.

        Raises:
            SessionError: The file is missing or not a model, or it needs the native library.
            LibraryNotFoundError: An instruction set is asked for, but the library is not built.
            UnavailableIsaError: The instruction set is unknown or not on this machine.
            ValueError: `threads` is negative, or an instruction set is asked for together with `stock`.
        """
        if threads < 0:
            raise ValueError(f"threads is {threads}; it must be 0 (one a core) or more")
        if stock and isa is not None:
            raise ValueError(f"stock=True runs no native kernels, so isa '{isa}' has no meaning; leave one of them out")
        self.path = Path(path)
        self.warnings: tuple[str, ...] = ()
        self.isa: str | None = None
        self._stock = stock
        model = _read(self.path)
        self._has_native_nodes = model is not None and any(word in model.content for word in _NATIVE_NODES)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERROR_LEVEL
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        if model is not None and _DEQUANTIZE in model.content and _QUANTIZE not in model.content:
            # Weights are dequantised, activations are not quantised.
            # Else ONNX Runtime keeps each DequantizeLinear for a Q/DQ fusion that such a file has no use for, and works
            # its weights out again at every run.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        library = None if stock else library_path()
        if library is not None:
            chosen = choose_isa(isa, isas())
            options.add_session_config_entry("compress.isa", chosen.name)
            options.add_session_config_entry("compress.threads", str(threads or _cores()))
            options.register_custom_ops_library(str(library))
            self.isa = chosen.name if self._has_native_nodes else None
        elif isa is not None:
            raise LibraryNotFoundError(
                f"instruction set '{isa}' was asked for, but the native library is not built; "
                "build it with `pip install .`, or leave isa out to run on the function bodies"
            )
        elif self._has_native_nodes and not stock:
            self.warnings = (
                f"{self.path}: the native library is not built, so FBS and sparse layers run on their function bodies, "
                "which is slower; build it with `pip install .`",
            )
        source: str | bytes = str(self.path)
        if map_weights and model is not None and model.is_mappable and tuple(providers) == ("CPUExecutionProvider",):
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(model.folder))
            source = model.content
        self.onnx_session = self._load(source, options, providers)
        self._input_names = [one.name for one in self.onnx_session.get_inputs()]

    def run(self, inputs: Sequence[NDArray[Any]] | Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Returns all outputs, in the model's order, of arrays given in its order or by name.

        Raises:
            SessionError: The inputs do not fit the model, or a kernel refused them.
        """
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(self._input_names):
                raise SessionError(
                    f"{self.path}: {len(inputs)} inputs were given; "
                    f"it takes {len(self._input_names)}: {', '.join(self._input_names)}"
                )
            inputs = dict(zip(self._input_names, inputs, strict=True))
        try:
            outputs: list[NDArray[Any]] = self.onnx_session.run(None, dict(inputs))
        # ONNX Runtime's errors have no common base below Exception.
        except Exception as error:
            raise SessionError(f"{self.path}: {error}") from error
        return outputs

    def describe(self) -> str:
        """Returns one line that says what runs the model."""
        if self.isa is not None:
            how = f"native kernels, {self.isa}"
        elif not self._has_native_nodes:
            how = "stock ONNX Runtime: the model has no FBS or sparse layers"
        elif self._stock:
            how = "stock ONNX Runtime, FBS and sparse layers on their function bodies, as asked for"
        else:
            how = "stock ONNX Runtime, FBS and sparse layers on their function bodies: the native library is not built"
        return f"{self.path}: {how}"

    def _load(
        self, source: str | bytes, options: onnxruntime.SessionOptions, providers: Sequence[str]
    ) -> onnxruntime.InferenceSession:
        try:
            return onnxruntime.InferenceSession(source, options, providers=list(providers))
        except Exception as error:  # as in run()
            raise SessionError(f"{self.path}: {error}") from error


def _read(path: Path) -> ModelFile | None:
    try:
        if path.stat().st_size == 0:
            raise SessionError(f"{path} is empty; give an ONNX file")
        return read_model(path)
    except OSError as error:
        raise SessionError(
            f"{path} cannot be read: {error.strerror or error}; give the path of an ONNX file"
        ) from error


def _cores() -> int:
    # Those this process may use, as ONNX Runtime counts them.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
