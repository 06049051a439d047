"""`eltbench.run_study`: from Python what `eltbench study` is on the command line."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import pandas as pd

from eltbench import studies
from eltbench.cli import run_study as command
from eltbench.core import tables
from eltbench.core.atomic import expanded
from eltbench.core.registry import allow_named
from eltbench.core.validation import build
from eltbench.evidence import verdicts
from eltbench.evidence.claims import Decision
from eltbench.execution.progress import Reporter
from eltbench.studies.base import Study
from eltbench.studies.untrained import Untrained

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class StudyResult:
    """What a study found: rows, decisions and remarks, a line for each run that failed, and the folder if published."""

    study: Study
    preset: str
    rows: pd.DataFrame
    decisions: Sequence[Decision]
    remarks: Sequence[str]
    failures: Sequence[str]
    folder: Path | None

    @property
    def summary(self) -> pd.DataFrame:
        """The study's table, as in summary.csv."""
        return self.study.summarise(self.rows)

    @property
    def claims(self) -> pd.DataFrame:
        """One line a claim, cell, condition and witness, with effect, interval and verdict (`verdicts.frame`)."""
        return verdicts.frame(self.decisions)

    def figure(self) -> Figure:
        """The study's figure."""
        from eltbench.evidence import figures

        with figures.plain():
            return self.study.figure(self.rows)

    def __repr__(self) -> str:
        counts = Counter(decision.verdict for decision in self.decisions)
        found = [f"{len(self.rows):,} rows", *(f"{count} {verdict}" for verdict, count in counts.most_common())]
        found += [f"{len(self.failures)} failed"] if self.failures else []
        where = "not published" if self.folder is None else f"in {self.folder}"
        return f"StudyResult({self.study.name} {self.preset}: {', '.join(found)}; {where})"

    def _repr_html_(self) -> str:
        lines = [
            (verdicts.MARKS[each.verdict], each.claim.id, each.verdict, each.claim.statement) for each in self.decisions
        ]
        return tables.html(repr(self), lines)


def run_study(
    study: str,
    preset: str | None = None,
    *,
    results: str | Path | None = None,
    runs: str | Path | None = None,
    progress: bool = True,
    **narrowing: Any,
) -> StudyResult:
    """Run a study by the same steps as its command: train and measure what is missing, and decide its claims.

    preset: a packaged one or FILE.toml:NAME; the command's default if not given. results: the folder to publish in, as
    the command does, with its refusals and its rows of earlier commands; without one nothing is written but the run
    cache, `runs`. narrowing: other options of the command by their names, such as trainers=["elt", "+my_trainer:Mine"],
    tasks, seeds=range(5), dataset, backend, workers, budget, force. progress: told on stderr.

    A run that fails does not stop the others: a warning says so, and `failures` tells each. Raises ValueError for
    what cannot be done, before anything is begun, and RuntimeError where nothing could be measured.
    """
    started = time.monotonic()
    allow_named([study])
    found, given = studies.create(study), dict(narrowing) if preset is None else {"preset": preset, **narrowing}
    if "dry_run" in given:
        raise ValueError("run_study: a dry run is of the command alone: eltbench study NAME --dry-run")
    into = None if results is None else expanded(results)
    if isinstance(found, Untrained):
        asked = found.prepared(_read(found.options, given))
        folder = None if into is None else into / study / asked.folder
        name, made = asked.name, command.finish_untrained(found, asked, folder, started)
    else:
        options = _read(command.StudyCommand, {**given, "runs": None if runs is None else expanded(runs)})
        planned = command.plan(study, options, into)
        found, name, folder = planned.study, planned.presets[0].name, planned.folder
        made, _ = command.finish(planned, started, None if progress else Reporter())
    if made.rows.empty:
        raise RuntimeError("\n".join([f"study {study!r} left no rows", *made.failures]))
    if made.failures:
        warnings.warn("\n".join([f"{len(made.failures)} failed", *made.failures]), RuntimeWarning, stacklevel=2)
    return StudyResult(found, name, made.rows, made.decisions, made.remarks, made.failures, folder)


def _read(kind: type[Any], given: dict[str, Any]) -> Any:
    """The options of a command; words may be given as one, as a list, or as numbers."""
    hints, read = get_type_hints(kind), {}
    for name, value in given.items():
        if hints.get(name) == tuple[str, ...]:
            value = tuple(map(str, [value] if isinstance(value, str | int) else value))
        read[name] = value
    return build(kind, read, "run_study")
