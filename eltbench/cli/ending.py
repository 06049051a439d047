"""How the command of a study ends: its claims in a line each, where everything lies, one line of JSON for programs."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import RenderableType

from eltbench.core import tables
from eltbench.core.terminal import tell_programs
from eltbench.evidence import verdicts
from eltbench.evidence.claims import Decision
from eltbench.evidence.report.published import NARROW
from eltbench.studies.base import Study
from eltbench.studies.untrained import Output


class Finished(NamedTuple):
    """What a study found: its rows, the decisions of its claims, remarks on them, and a line for each failure."""

    rows: pd.DataFrame
    decisions: Sequence[Decision]
    remarks: Sequence[str]
    failures: Sequence[str]


@dataclass(frozen=True)
class Ending:
    """What a command has to say when all is written to `folder`."""

    study: Study
    preset: str
    folder: Path
    found: Finished
    said: Mapping[str, Any] = field(default_factory=dict)  # in the line of JSON beside the claims
    wide: Sequence[RenderableType] = ()  # tables of the study's own

    def tell(self, asked: Output) -> None:
        """Print it; the line of JSON where stdout is no terminal, or where it is asked for."""
        console = tables.console()
        for shown in self.wide if asked.verbose or not self.found.decisions else ():
            console.print(shown)
        if self.found.decisions:
            if asked.verbose:
                console.print(verdicts.table(self.found.decisions))
            console.print(verdicts.brief(self.found.decisions))
            print(self.summed_up())
        for decision in self.found.decisions:
            if not decision.cells and decision.claim.undecidable:
                print(f"{decision.claim.id}: {decision.reason}")
        for line in self.found.remarks:
            print(line)
        for line in self.found.failures:
            print(f"failed: {line}", file=sys.stderr)
        for line in self.places():
            print(line)
        tell_programs(self.in_short(), always=asked.json)

    def summed_up(self) -> str:
        """How many claims have which verdict, and what the intervals cover."""
        counts = Counter[str](decision.verdict for decision in self.found.decisions)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts.MARKS if counts[verdict])
        return f"{len(self.found.decisions)} claims: {told}\nintervals cover {self.study.covers}"

    def places(self) -> list[str]:
        """Where the figure and the rows lie, and the command that makes the report; empty where nothing was written."""
        if not (self.folder / "rows.parquet").exists():
            return []
        root = self.folder.parent if self.folder.name == self.study.name else self.folder.parent.parent
        narrow = " --narrow" if self.preset in NARROW else ""
        found = {
            "figure": self.folder / "figure.png",
            "rows": self.folder / "rows.parquet",
            "report": f"eltbench report{narrow} --results {shlex.quote(str(root))}",
        }
        return [f"{name:8}{what}" for name, what in found.items()]

    def in_short(self) -> dict[str, Any]:
        """What programs read."""
        known = {"study": self.study.name, "preset": self.preset, "results": str(self.folder)}
        return {**known, "claims": verdicts.in_short(self.found.decisions), **self.said}
