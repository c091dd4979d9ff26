"""What an instruction set is to a user, and the choice among those a machine has."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import UnavailableIsaError

__all__ = ["Isa", "choose_isa"]


@dataclass(frozen=True)
class Isa:
    """One instruction set the kernels are compiled for.

    Attributes:
        name: As given to `Session`, e.g. "avx2".
        description: One line for people.
        supported: This machine has it.
        built: The native library contains it.
    """

    name: str
    description: str
    supported: bool
    built: bool


def choose_isa(name: str | None, isas: Sequence[Isa]) -> Isa:
    """Returns the instruction set called `name`, or the best one that runs here; `isas` is best first.

    >>> isas = [Isa("avx512", "", False, True), Isa("avx2", "", True, True), Isa("generic", "", True, True)]
    >>> choose_isa(None, isas).name
    'avx2'

    Raises:
        UnavailableIsaError: It is unknown, not built or not on this machine.
    """
    available = [isa for isa in isas if isa.built and isa.supported]
    chosen = next((isa for isa in available if name in (None, isa.name)), None)
    if chosen is not None:
        return chosen
    known = next((isa for isa in isas if isa.name == name), None)
    if known is None:
        problem = f"unknown instruction set '{name}'"
    elif known.built:
        problem = f"this machine does not have the instruction set '{name}'"
    else:
        problem = f"the native library is not built, so neither is the instruction set '{name}'"
    names = ", ".join(isa.name for isa in available) or "none is available: build the library with `pip install .`"
    raise UnavailableIsaError(f"{problem}; choose from: {names}")
