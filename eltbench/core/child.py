"""The other end of a worker process: it is told lines on stdin, and ends when its sender does."""

from __future__ import annotations

import os
import threading

ORPHANED = 3  # exit code when the sender is gone


def told() -> bytes | None:
    """The line that this process is told, or None where the sender is gone: leave with ORPHANED."""
    line = b""
    while not line.endswith(b"\n"):  # unbuffered, so that a watching thread sees all that follows
        byte = os.read(0, 1)
        if not byte:
            return None
        line += byte
    return line


def end_with_sender() -> None:
    """From now on this process ends at once when stdin closes, however the sender died; what it says is dropped."""
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
