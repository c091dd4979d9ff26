"""What is to be measured: a file and how to run it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime

from runtime.results import BenchmarkError

__all__ = ["PROVIDERS", "Candidate", "check_candidates", "named", "on_device", "onnxruntime_providers"]

# ONNX Runtime hands a node to the first of these that has a kernel for it.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


@dataclass(frozen=True)
class Candidate:
    """One file and how to run it; a file may appear several times with different settings.

    Attributes:
        path: The ONNX file.
        stock: Run it in ONNX Runtime without the native library.
        isa: Instruction set of the native kernels; None is the best one here.
        label: Name in tables; None is the file's name with the settings that differ from the default.
    """

    path: str | Path
    stock: bool = False
    isa: str | None = None
    label: str | None = None


def named(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the candidates with labels: their own, or made from file name and settings.

    Where two files have the same name, the whole path stands in for it.

    >>> [candidate.label for candidate in named([Candidate("a/x.onnx"), Candidate("a/y.onnx", stock=True)])]
    ['x.onnx', 'y.onnx (stock)']
    >>> [candidate.label for candidate in named([Candidate("a/x.onnx"), Candidate("b/x.onnx", isa="avx2")])]
    ['a/x.onnx', 'b/x.onnx (avx2)']
    """
    num_files = Counter(Path(path).name for path in {str(candidate.path) for candidate in candidates})
    result = []
    for candidate in candidates:
        name = Path(candidate.path).name
        if num_files[name] > 1:
            name = str(candidate.path)
        setting = "stock" if candidate.stock else candidate.isa
        label = f"{name} ({setting})" if setting else name
        result.append(candidate if candidate.label is not None else replace(candidate, label=label))
    return result


def check_candidates(candidates: Sequence[Candidate]) -> None:
    """Checks what can be known before a process is started; names every problem, not only the first.

    Raises:
        BenchmarkError: There is no candidate, a file is missing, or settings contradict each other.
    """
    if not candidates:
        raise BenchmarkError("no model to measure; give at least one .onnx file")
    problems = []
    for candidate in candidates:
        path = Path(candidate.path)
        if not path.exists():
            problems.append(f"{candidate.path}: no such file")
        elif not path.is_file():
            problems.append(f"{candidate.path}: is not a file")
        if candidate.stock and candidate.isa is not None:
            problems.append(f"{candidate.path}: stock=True contradicts isa={candidate.isa!r}; give one of them")
    if problems:
        raise BenchmarkError("; ".join(dict.fromkeys(problems)))


def on_device(candidates: Sequence[Candidate], provider: str) -> list[Candidate]:
    """Returns the candidates as a provider runs them: the native kernels are for the processor alone.

    >>> [one.stock for one in on_device([Candidate("x.onnx")], "cuda")]
    [True]

    Raises:
        BenchmarkError: An instruction set is asked for on a device.
    """
    if provider == "cpu":
        return list(candidates)
    wrong = [str(candidate.path) for candidate in candidates if candidate.isa is not None]
    if wrong:
        raise BenchmarkError(
            f"{', '.join(wrong)}: instruction sets are the processor's; leave them out with provider {provider!r}"
        )
    return [replace(candidate, stock=True) for candidate in candidates]


def onnxruntime_providers(provider: str) -> tuple[str, ...]:
    """Returns ONNX Runtime's names for a provider, the wanted one first.

    Raises:
        BenchmarkError: The name is unknown, or this ONNX Runtime was built without the provider.
    """
    if provider not in PROVIDERS:
        raise BenchmarkError(f"unknown provider {provider!r}; choose from: {', '.join(PROVIDERS)}")
    names = PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if names[0] not in available:
        raise BenchmarkError(
            f"provider {provider!r} needs {names[0]}, which the installed ONNX Runtime "
            f"{onnxruntime.__version__} does not have (it has: {', '.join(available)}); "
            "install onnxruntime-gpu in its place"
        )
    return names
