"""The terminal of a command: closed or narrow streams, errors in plain words, exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

REFUSED, INTERRUPTED, UNREAD, TERMINATED = 2, 130, 141, 143  # the last three as a shell names SIGINT, SIGPIPE, SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def answer(act: Callable[[], int]) -> int:
    """Call `act` and return its exit code, or that of what ended it, in plain words on stderr.

    ValueError and OSError are errors that the user can mend. A closed stdout ends the command silently, a closed stderr
    does not end it. Characters that a stream cannot encode are replaced.
    """
    with _streams():
        try:
            try:
                return act()
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            return UNREAD
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt as stopped:
            print("interrupted: what had finished stays; repeat the command to go on", file=sys.stderr)
            return TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED


def tell_programs(known: Mapping[str, Any], *, always: bool = False) -> None:
    """Print the line of JSON that ends a command, where stdout is no terminal, or `always`."""
    if always or not sys.stdout.isatty():
        print(json.dumps(known), flush=True)


def cut(line: str) -> str:
    """A line that fits the terminal on stdout; whole where there is none."""
    width = shutil.get_terminal_size().columns
    return line if len(line) <= width or not sys.stdout.isatty() else f"{line[: width - 1]}…"


class Patient:
    """A stream whose reader may leave: what is written then is lost, without an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Within it stdout and stderr are there and take every character, and stderr never fails."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nothing:
        sys.stdout = sys.stdout or nothing  # None where the command was started with a closed one
        errors = sys.stderr or nothing
        for stream in (sys.stdout, errors):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        sys.stderr = Patient(errors)  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for stream in before:
                _let_go(stream, nothing)


def _let_go(stream: TextIO | None, nothing: TextIO) -> None:
    """Where a stream cannot be emptied, let it lead nowhere, or Python complains of it when it ends."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nothing.fileno(), stream.fileno())  # type: ignore[union-attr]
