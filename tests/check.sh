#!/usr/bin/env bash
# Every check of the project, for people and CI alike: format, lint, types, import contracts, tests.
# The native library is built by the install before it (`pip install -e ".[dev]"`).
set -euo pipefail
cd "$(dirname "$0")/.."

ruff format --check .
ruff check .
find runtime/csrc tests -name '*.h' -o -name '*.cc' | xargs --no-run-if-empty clang-format --dry-run --Werror
mypy
lint-imports
# One process a core, each on one thread: sums of several threads would only fight for the same cores.
OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile "$@"
