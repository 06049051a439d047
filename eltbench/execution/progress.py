"""The progress of a sweep: a live display on a terminal, one line per finished run elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from eltbench.core.durations import duration
from eltbench.core.validation import printable

SOON = 0.02  # share of all work from which the time left is told, where no time is recorded


class Reporter:
    """Receives the progress of a sweep; this one shows nothing."""

    def begin(self, names: Sequence[str], cached: int, seconds: float | None = None) -> None:
        """Runs of these names are to be made, in about `seconds` where that is known; `cached` are there already."""

    def phase(self, run_id: str, name: str, text: str, fraction: float | None) -> None:
        """A run moved on: what it does now and, where known, how much of that is done."""

    def warn(self, text: str) -> None:
        """Something was repaired that the user should know of."""

    def finished(self, run_id: str, line: str) -> None:
        """A run ended, well or not."""

    def end(self) -> None:
        """The sweep is over or was interrupted."""


class Lines(Reporter):
    """Plain lines on stderr, for logs and pipes."""

    def begin(self, names: Sequence[str], cached: int, seconds: float | None = None) -> None:
        self._say(f"runs to make: {len(names)}, cached: {cached}{_about(seconds)}")

    def phase(self, run_id: str, name: str, text: str, fraction: float | None) -> None:
        if text.startswith(("waiting", "resumes")):
            self._say(f"{name}: {text}")

    def warn(self, text: str) -> None:
        self._say(f"warning: {text}")

    def finished(self, run_id: str, line: str) -> None:
        self._say(line)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody may listen any more, which ends no training
            print(printable(text), file=sys.stderr, flush=True)  # parts of it may come from a stranger's cache


class Live(Reporter):
    """Bars on a terminal: one for all runs with the time left, one for every run at work; finished runs above them."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[doing]}", table_column=Column(no_wrap=True)),
        )
        self._progress = Progress(*columns, console=console, transient=True, expand=True)
        self._bars: dict[str, TaskID] = {}
        self._done: dict[str, float] = {}  # by run, the share of it that is done
        self._short: dict[str, str] = {}

    def begin(self, names: Sequence[str], cached: int, seconds: float | None = None) -> None:
        shared, self._short = apart(names)
        self._runs, self._seconds, self._began = len(names), seconds, time.monotonic()
        self._progress.start()
        self._say(f"runs to make: {len(names)}, cached: {cached}{f'; all {shared}' if shared else ''}")
        if names:
            doing = f"0 of {len(names)}{_about(seconds)}"
            self._all = self._progress.add_task("all runs", total=len(names), doing=doing)

    def phase(self, run_id: str, name: str, text: str, fraction: float | None) -> None:
        if run_id not in self._bars:
            self._bars[run_id] = self._progress.add_task(self._short.get(name, name), total=None, doing=text)
        total = None if fraction is None else 1.0
        self._progress.update(self._bars[run_id], total=total, completed=fraction or 0.0, doing=text)
        self._done[run_id] = max(self._done.get(run_id, 0.0), fraction or 0.0)
        self._advance()

    def warn(self, text: str) -> None:
        self._progress.print(f"warning: {printable(text)}", style="yellow", highlight=False, markup=False)

    def finished(self, run_id: str, line: str) -> None:
        if run_id in self._bars:
            self._progress.remove_task(self._bars.pop(run_id))
        self._done[run_id] = 1.0
        for name, short in self._short.items():
            line = line.replace(name, short)
        self._say(printable(line))
        self._advance()

    def end(self) -> None:
        self._progress.stop()

    def _say(self, text: str) -> None:
        self._progress.print(text, highlight=False, markup=False)

    def _advance(self) -> None:
        """What all runs together have done, and the time left: of the recorded time, else as fast as until now."""
        done, finished = sum(self._done.values()), sum(share == 1.0 for share in self._done.values())
        share, whole = done / self._runs, self._seconds
        if whole is None and share > SOON:
            whole = (time.monotonic() - self._began) / share
        left = None if whole is None or share == 1.0 else whole * (1 - share)
        self._progress.update(self._all, completed=done, doing=f"{finished} of {self._runs}{_about(left)}")


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f", about {duration(seconds)} left"


def apart(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The words that all names share, but for "seed", and for each name what is left of it without them."""
    each = {name: name.split() for name in names}
    if len(each) < 2:
        return "", {name: name for name in each}
    shared = [
        word for word in next(iter(each.values())) if word != "seed" and all(word in words for words in each.values())
    ]
    short = {name: " ".join(word for word in words if word not in shared) for name, words in each.items()}
    return " ".join(shared), short


def reporter() -> Reporter:
    """The display that fits stderr."""
    console = Console(stderr=True)
    return Live(console) if console.is_terminal else Lines()
