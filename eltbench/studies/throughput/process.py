"""A process of its own for every measurement, one at a time: nothing of one is warm, cached or compiled for the next.

A nursery is a new process that loads the libraries, computes nothing, and forks a child for each message (on Linux;
elsewhere a new process is started for each). One nursery serves one replicate of all cells, so that replicates differ
in their memory's layout too, and the seconds that loading takes are spent once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any


class ProcessError(RuntimeError):
    """A process that ended without an answer; the message says how, and what it said last.

    killed: the number of the signal that ended it, 0 where it ended by itself.
    """

    def __init__(self, message: str, killed: int = 0) -> None:
        super().__init__(message)
        self.killed = killed


class Nursery:
    """A process of `module` that answers one message at a time; it ends with this one, or when the context is left."""

    def __init__(self, threads: int, module: str = "eltbench.studies.throughput.timing_process") -> None:
        self.threads, self.module = threads, module
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed when the context is left

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()
        self._errors.close()

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message, both one JSON object.

        Raises ProcessError where there is none, with the error that the process reports where it reports one.
        """
        child = self._child = self._child if self._child and self._child.poll() is None else self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # how it ended is said below
            child.stdin.write(json.dumps(message).encode() + b"\n")
            child.stdin.flush()
        line = child.stdout.readline()
        if not line.endswith(b"\n"):
            child.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            last = f": {said.splitlines()[-1]}" if said else ""
            raise ProcessError(f"process {ending(child.returncode)}{last}", max(0, -child.returncode))
        answer = json.loads(line)
        if answer.pop("last", False):
            child.wait()
        if "error" in answer:
            raise ProcessError(answer["error"], answer.get("killed", 0))
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        from eltbench.core.child import thread_environment  # loads pyarrow, whose threads a nursery must not have

        return subprocess.Popen(
            [sys.executable, "-P", "-m", self.module],
            stdin=subprocess.PIPE,  # held open: the nursery and its child end when it closes
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **thread_environment(self.threads), "OPENBLAS_NUM_THREADS": "1"},  # no thread to fork
        )

    def _end(self) -> None:
        if self._child is None:
            return
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()  # a child at work ends by this, too
        self._child.kill()
        self._child.wait()
        self._child.stdout.close()


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
