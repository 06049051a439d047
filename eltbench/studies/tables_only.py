"""Studies of what is written: they train nothing, so their rows come from tables alone and their command is short."""

from __future__ import annotations

import json
import sys
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
from rich.console import Console, RenderableType

from eltbench.cli import command_line
from eltbench.core.atomic import check_writable
from eltbench.core.config import Run
from eltbench.core.provenance import provenance, row_provenance
from eltbench.evidence import publishing, verdicts
from eltbench.evidence.claims import Cell, Claim, Evidence
from eltbench.evidence.schema import row_schema, validate
from eltbench.studies.base import Measured, Study
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.job import Job, measurement_hash
from eltbench.training.model import Model

PIPED_WIDTH = 160  # columns of the tables where stdout is no terminal


class Reading(Study):
    """A study without runs: it plans none, decides no claim by seeds, and `read` gives its rows."""

    claims: ClassVar[tuple[Claim, ...]] = ()
    source: ClassVar[str]  # what is read; the rows carry it as their preset

    @abstractmethod
    def read(self) -> list[dict[str, Any]]:
        """Rows with metric, value and the study's key columns; study, versions and time are stamped on."""

    @abstractmethod
    def tables(self, summary: pd.DataFrame) -> list[RenderableType]:
        """The summary as people read it in a terminal."""

    def schema(self) -> pa.Schema:
        """The shared columns and the study's own; all may be empty, since most describe a trained model."""
        kept = row_schema(self.columns)
        return pa.schema([field.with_nullable(True) for field in kept], metadata=kept.metadata)

    def rows(self) -> pd.DataFrame:
        """What `read` gives, stamped, in the form of `schema`; raises ValueError where it does not fit."""
        schema = self.schema()
        known = {
            **dict.fromkeys(schema.names),
            **row_provenance("pandas"),
            "study": self.name,
            "preset": self.source,
            "measurement": measurement_hash(self.name, self.version, {}),
        }
        return validate(pd.DataFrame([{**known, **row} for row in self.read()]), schema).to_pandas()

    def told(self, rows: pd.DataFrame) -> dict[str, Any]:
        return {"verdicts": counted(self.summarise(rows))}

    def plan(self, preset: Preset) -> list[Job]:
        return []

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        raise ValueError(f"study {self.name!r} trains no model; run it without a preset")

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        raise ValueError(f"study {self.name!r} measures no model")

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        return {}


@dataclass(frozen=True)
class ReadingCommand:
    """Read the tables, recompute, and write rows, summary, figure, verdicts and provenance; nothing is trained."""

    results: Path = Path("results")
    """where the study's folder is written"""


def main(study: Reading, arguments: Sequence[str] | None = None) -> int:
    """Run the command line of a study that only reads; returns the exit code 0, raises ValueError for bad input."""
    description = ReadingCommand.__doc__
    command = command_line.read(ReadingCommand, f"eltbench study {study.name}", arguments, description)
    folder = command.results / study.name
    check_writable(folder)
    summary = write(folder, study)
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for table in study.tables(summary):
        console.print(table)
    sys.stdout.flush()
    print(json.dumps({"study": study.name, "results": str(folder), "verdicts": counted(summary)}), flush=True)
    return 0


def write(folder: Path, study: Reading) -> pd.DataFrame:
    """All files of the study into its folder, each whole, the rows last; returns the summary."""
    started = time.monotonic()
    rows = study.rows()
    runs: dict[str, Any] = {"done": [], "cached": [], "failed": {}}
    entry = {**provenance(), "wall_seconds": round(time.monotonic() - started, 1), "presets": [], "runs": runs}
    publishing.write(folder, study, rows, study.schema(), verdicts.content(study, study.source, [], rows), [entry])
    return study.summarise(rows)


def counted(summary: pd.DataFrame) -> dict[str, int]:
    """How often the summary gives each verdict."""
    return {str(name): int(count) for name, count in summary["verdict"].value_counts(sort=False).items()}
