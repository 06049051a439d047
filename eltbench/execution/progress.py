"""The progress of a sweep: a live display on a terminal, one line per finished run elsewhere."""

from __future__ import annotations

import contextlib
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from eltbench.core.validation import printable


class Reporter:
    """Receives the progress of a sweep; this one shows nothing."""

    def begin(self, runs: int, cached: int) -> None:
        """`runs` are to be made, `cached` are there already."""

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

    def begin(self, runs: int, cached: int) -> None:
        self._say(f"runs to make: {runs}, cached: {cached}")

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
    """Bars on a terminal: one for every run at work, finished runs as lines above them."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[doing]}"))
        self._progress = Progress(*columns, console=console, transient=True)
        self._bars: dict[str, TaskID] = {}

    def begin(self, runs: int, cached: int) -> None:
        self._progress.start()
        self._progress.print(f"runs to make: {runs}, cached: {cached}", highlight=False, markup=False)

    def phase(self, run_id: str, name: str, text: str, fraction: float | None) -> None:
        if run_id not in self._bars:
            self._bars[run_id] = self._progress.add_task(name, total=None, doing=text)
        total = None if fraction is None else 1.0
        self._progress.update(self._bars[run_id], total=total, completed=fraction or 0.0, doing=text)

    def warn(self, text: str) -> None:
        self._progress.print(f"warning: {printable(text)}", style="yellow", highlight=False, markup=False)

    def finished(self, run_id: str, line: str) -> None:
        if run_id in self._bars:
            self._progress.remove_task(self._bars.pop(run_id))
        self._progress.print(printable(line), highlight=False, markup=False)

    def end(self) -> None:
        self._progress.stop()


def reporter() -> Reporter:
    """The display that fits stderr."""
    console = Console(stderr=True)
    return Live(console) if console.is_terminal else Lines()
