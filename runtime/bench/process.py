"""The parent's side of a worker: start it, ask it, stop it between answers, say how it ended.

Only the worker that is answering runs. All others are stopped (SIGSTOP), because an ONNX Runtime thread pool
keeps spinning for about 50 ms after its last run. Measured on 4 cores, 4 sessions of 4 threads in 4
processes, one run each in turn, a network of 6 convolutions: 66 ms with the others merely idle, 13 ms with
the others stopped, 12 ms alone. (Forbidding the pools to spin would quieten them too, but then each model is
measured with settings that nobody ships.)
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime.results import BenchmarkError

__all__ = ["WorkerProcess"]

_START = "import sys; sys.path.append(sys.argv[1]); from runtime.bench.worker import main; main()"
_PACKAGES = Path(__file__).parents[2]  # where this very runtime was imported from
_MAX_LAST_WORDS = 300
_ENDING_S = 10.0  # a process that closed its pipe is about to end; writing a core file takes a moment


class WorkerProcess:
    """A process that holds one model and runs only while it answers."""

    def __init__(self, label: str, *, timeout_s: float) -> None:
        self._label = label
        self._timeout_s = timeout_s
        self._unread = b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed in `close`
        # -P: the current folder must not provide the modules. A session of its own: Ctrl-C reaches the
        # parent, which ends the workers.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(_PACKAGES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:  # Any: JSON values
        """Lets the worker run, sends a command, waits for the answer and stops the worker again.

        Raises:
            BenchmarkError: The worker answered with an error, ended, or took longer than the time limit.
        """
        line = json.dumps({"command": command, "arguments": arguments}) + "\n"
        self._process.send_signal(signal.SIGCONT)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended(command) from error
        answer: dict[str, Any] = json.loads(self._read_line(command))
        self._stop()
        if "error" in answer:
            raise BenchmarkError(f"{self._label}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process; it has nothing to save."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            with suppress(BrokenPipeError):  # a command that an ended process never took
                stream.close()

    def _stop(self) -> None:
        """Stops the process and waits until it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        if self._process.poll() is None:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _read_line(self, command: str) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        end = time.monotonic() + self._timeout_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self._process.kill()
                raise BenchmarkError(
                    f"{self._label}: no answer to {command!r} within {self._timeout_s:g} s; "
                    "measure fewer runs or raise the time limit"
                )
            received = os.read(pipe, 1 << 20)
            if not received:
                raise self._ended(command)
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _ended(self, command: str) -> BenchmarkError:
        """Returns the error that says how the process ended and its last words."""
        try:
            code = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").split("\n")
        last = next((" ".join(line.split()) for line in reversed(words) if line.strip()), "")
        said = f"; its last words: {last[:_MAX_LAST_WORDS]}" if last else ""
        return BenchmarkError(f"{self._label}: its benchmark process {how} during {command!r}{said}")
