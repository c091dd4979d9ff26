"""Builds of this project's C++ for the tests that need one of their own, and what they are made with."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(*command, cwd, environment=None):
    """Standard output; a failure shows all that was said."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout


def build(folder, *options, targets):
    """Builds `targets` in `folder` and returns it."""
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run("cmake", *generator, "-S", ROOT, "-B", folder, *options, cwd=folder.parent)
    run("cmake", "--build", folder, "--target", *targets, "--parallel", "2", cwd=folder.parent)
    return folder


def compiler():
    """The C++ compiler CMake would take; None where there is none, or no CMake."""
    if shutil.which("cmake") is None:
        return None
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


def have_sanitizer(folder, sanitizer):
    source = folder / "probe.cc"
    source.write_text("int main() { return 0; }\n")
    if compiler() is None:
        return False
    flags = ["-std=c++20", f"-fsanitize={sanitizer}", str(source), "-o", str(folder / "probe")]
    built = subprocess.run([compiler(), *flags], capture_output=True, check=False)
    return built.returncode == 0 and subprocess.run([folder / "probe"], check=False).returncode == 0
