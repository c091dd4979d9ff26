"""Are the sibling packages ours? Their names are generic, and a user's own `models/` may come first on the path."""

from importlib.util import find_spec
from pathlib import Path

from compressor.errors import CompressorError

__all__ = ["SIBLINGS", "check_siblings"]

SIBLINGS = ("exporters", "models", "runtime")


def check_siblings(*names: str) -> None:
    """Looks where `names` would be imported from, without importing them.

    Args:
        names: Some of `SIBLINGS`.

    Raises:
        CompressorError: One lies elsewhere than beside this package; says which foreign folder hides it.
    """
    home = Path(__file__).resolve().parents[1]
    for name in names:
        spec = find_spec(name)
        if spec is None:
            raise CompressorError(f"the package '{name}' is missing beside {home / 'compressor'}; install it again")
        places = [str(Path(spec.origin).parent)] if spec.origin else list(spec.submodule_search_locations or ())
        if home / name not in [Path(place).resolve() for place in places]:
            foreign = spec.origin if spec.origin and not spec.submodule_search_locations else places[0]
            raise CompressorError(
                f"{foreign} hides the package '{name}' in {home}; rename it, or take its folder off PYTHONPATH "
                "and the working directory"
            )
