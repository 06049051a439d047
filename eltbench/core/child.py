"""Child processes: lines of JSON on stdin and stdout; a child ends when its sender does.

Both ends are here. The sender starts a `Child`; a child reads with `told` and writes to `answers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, Any, TextIO

ORPHANED = 3  # exit code when the sender is gone


class Child:
    """A new process of `module`, with numerical libraries held to `threads`; OSError where none can be started.

    Its stdin is held open for its lifetime, so that it ends when this process does, however it dies.
    """

    def __init__(self, module: str, threads: int, environment: Mapping[str, str] | None = None) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed by `end`
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **thread_environment(threads), **(environment or {})},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; a process that is gone says so when it is listened to."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()

    def receive(self) -> Any:
        """Its next message; None when it has ended, also in the middle of one."""
        line = self._stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def errors(self) -> str:
        """What it has written to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()

    def ending(self) -> str:
        """How it ended, in words, and the last line that it wrote to stderr; waits until it has."""
        how = f"process {ending(self.process.wait())}"
        said = self.errors()
        return f"{how}: {said.splitlines()[-1]}" if said else how

    def end(self) -> None:
        """Kill it, and what it has forked, and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()  # what it has forked ends by this
        self.process.kill()
        self.process.wait()
        self._stdout.close()
        self._errors.close()


def ending(code: int) -> str:
    """How a process with this return code ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def in_words(error: Exception) -> str:
    """The kind and message of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def answers() -> TextIO:
    """In a child: where its lines go. What libraries print to stdout goes to stderr; Ctrl-C is left to the sender."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return out


def told() -> bytes | None:
    """In a child: the next line from the sender, or None where it is gone: leave with ORPHANED."""
    line = b""
    while not line.endswith(b"\n"):  # unbuffered, so that a watching thread sees all that follows
        byte = os.read(0, 1)
        if not byte:
            return None
        line += byte
    return line


def end_with_sender() -> None:
    """In a child: from now on, end at once when stdin closes; what is said after that is dropped."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    """Leave at the end of stdin; skips every clean-up, which atomic files do not need."""
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


def thread_environment(threads: int) -> dict[str, str]:
    """Environment that holds the numerical libraries of a new process to `threads`; they read it when loaded."""
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")
    variables = {f"{name}_NUM_THREADS": str(threads) for name in names}
    return {**variables, "NPROC": str(threads)}  # XLA's pool of CPU threads
