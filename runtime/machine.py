"""What a measurement ran on: processor, memory, system and versions."""

import os
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

__all__ = ["Machine", "describe_machine"]

# The processor flags that decide which kernels run, ours or ONNX Runtime's. x86 names first, then ARM's as
# Linux writes them.
_RELEVANT_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
)


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement.

    Attributes:
        cpu: Name of the processor as the system gives it.
        cores: Logical processors of the machine.
        usable_cores: Those that this process may run on (taskset, containers).
        flags: Instruction-set flags that matter to the kernels, as the system spells them.
        memory_bytes: Installed memory; None where the system does not say.
        load_1min: Runnable processes averaged over the last minute: above 0 the machine was not idle. None
            where the system does not say.
        os: System, release and architecture.
        python: Version of Python.
        onnxruntime: Version of ONNX Runtime.
        numpy: Version of NumPy.
    """

    cpu: str
    cores: int
    usable_cores: int
    flags: tuple[str, ...]
    memory_bytes: int | None
    load_1min: float | None
    os: str
    python: str
    onnxruntime: str
    numpy: str

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Returns plain values under the attributes' names."""
        return {**asdict(self), "flags": list(self.flags)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Machine":
        """Rebuilds what `to_json` gave.

        Raises:
            KeyError: A name is missing.
        """
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**{**known, "flags": tuple(known["flags"])})


def describe_machine() -> Machine:
    """Returns the machine that this process runs on."""
    cpu, flags = _processor()
    cores = os.cpu_count() or 1
    return Machine(
        cpu=cpu,
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        flags=flags,
        memory_bytes=_memory_bytes(),
        load_1min=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        numpy=np.__version__,
    )


def _processor() -> tuple[str, tuple[str, ...]]:
    """Returns the processor's name and its relevant flags, from Linux's cpuinfo where there is one."""
    name = platform.processor() or platform.machine()
    found: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key in ("model name", "Model", "Hardware"):
                name = value
            elif key in ("flags", "Features"):
                found.update(value.split())
    return name, tuple(flag for flag in _RELEVANT_FLAGS if flag in found)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # a system that does not know these names
        return None
