"""Processes that this package starts: both ends of a pipe of JSON lines.

The sender holds stdin open for the child's lifetime. When it closes, however the sender died, the child ends at once.
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
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn, TextIO

from eltbench.core.registry import handed_on, receive

ORPHANED = 3  # exit code when the sender is gone
Emit = Callable[[Mapping[str, Any]], None]


def start(
    module: str,
    threads: int,
    errors: int | IO[bytes] = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """A process of a module, with pipes on stdin and stdout, whose numerical libraries use `threads` threads."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, **thread_environment(threads), **(environment or {})},
    )


def send(child: subprocess.Popen[bytes], message: Mapping[str, Any]) -> None:
    """Send a message to a process, with the classes that this one knows; a process that has ended is not an error."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps({"known": handed_on(), **message}).encode() + b"\n")
        child.stdin.flush()


def serve(act: Callable[[Any, Emit], None]) -> NoReturn:
    """Call `act` with the sender's message and a function that answers it, then end this process.

    Answers are JSON lines on stdout; what libraries print there goes to stderr. What `act` raises is answered as
    {"error": …}. The exit code is 1 after an answer with "error", ORPHANED where the sender is gone, else 0.
    """
    out = answers()
    line = told()
    if line is None:
        os._exit(ORPHANED)
    end_with_sender()
    failed = False

    def emit(answer: Mapping[str, Any]) -> None:
        nonlocal failed
        failed |= "error" in answer
        out.write(json.dumps(answer) + "\n")

    try:
        message = json.loads(line)
        receive(message["known"])
        act(message, emit)
    except Exception as error:
        traceback.print_exc()
        emit({"error": in_words(error)})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(failed))  # torch takes a second to be taken down, for nothing: files are whole and locks are freed


def in_words(error: Exception) -> str:
    """The kind and message of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


class Child:
    """A new process of `module`, with numerical libraries held to `threads`; OSError where none can be started.

    Its stdin is held open for its lifetime, so that it ends when this process does, however it dies.
    """

    def __init__(self, module: str, threads: int, environment: Mapping[str, str] | None = None) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed by `end`
        self.process = start(module, threads, self._errors, environment)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; a process that is gone says so when it is listened to."""
        send(self.process, message)

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
