"""Audit: do the figures of the paper's tables follow from the networks that the tables describe?

Parameters, GFLOPs and depth of every row are counted again under every declared convention; the verdict of a row says
whether one of them gives the printed figure. What the rows imply for one another is held against them as well. Nothing
is trained: `python -m eltbench.studies.audit` takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure
from rich.console import RenderableType

from eltbench.evidence import results
from eltbench.evidence.claims import Cell, Evidence
from eltbench.studies import register
from eltbench.studies.audit import figure as deviations
from eltbench.studies.audit import tables as audit_tables
from eltbench.studies.audit.paper import judgement
from eltbench.studies.audit.paper.consequences import consequences
from eltbench.studies.audit.paper.recount import recount
from eltbench.studies.untrained import Made, Output, Prepared, Untrained

SUMMARY = (
    *("kind", "table", "model", "quantity", "claim", "statement", "reported", "convention", "recomputed"),
    *("deviation_percent", "verdict", "sampling_steps", "nearest_steps", "recomputed_at_nearest_steps", "conventions"),
    *("conventions_fitting", "reason", "assumed"),
)
CALLED = {"quantity": "metric", "recomputed": "value", "recomputed_at_nearest_steps": "value_at_nearest_steps"}
"""Columns of the summary, and those that have another name in a line of `judgement`."""

SOURCE = "paper"  # the preset that the rows name


@dataclass(frozen=True)
class AuditCommand(Output):
    """Read the paper's tables, recompute, and write rows, summary, figure, verdicts and provenance."""

    results: Path = Path("results")
    """where the study's folder is written"""


@register("audit", version=1)
class Audit(Untrained):
    """Every figure of the paper's tables, recomputed."""

    library = "pandas"
    options = AuditCommand
    columns: ClassVar = {
        "kind": pa.string(),  # recount: a figure counted again; consequence: a statement held against the tables
        "table": pa.string(),
        "model": pa.string(),  # the row, as its first column calls it
        "claim": pa.string(),  # whose statement or figure it is
        "statement": pa.string(),
        "convention": pa.string(),
        "layer": pa.string(),  # squares of the width in one layer
        "biases": pa.bool_(),  # counted, and norms
        "embeddings": pa.string(),  # which tables are counted beside the layers
        "unit": pa.string(),  # FLOP or MAC
        "calls": pa.int64(),  # network calls counted a sampling step
        "attention": pa.bool_(),  # its products among tokens are counted
        "head": pa.bool_(),
        "condition_token": pa.bool_(),
        "sampling_steps": pa.int64(),
        "reported": pa.float64(),  # the printed figure, or what a statement expects
        "reported_low": pa.float64(),  # the least value that is printed so
        "reported_high": pa.float64(),
        "deviation_percent": pa.float64(),  # of the value from what is reported
        "fits": pa.bool_(),
        "nearest_steps": pa.int64(),  # sampling steps that bring the value nearest to what is reported
        "value_at_nearest_steps": pa.float64(),
        "fits_at_nearest_steps": pa.bool_(),
        "reason": pa.string(),  # why there is no value, or what qualifies it
        "assumed": pa.string(),  # what the paper does not say of the row's network and every convention takes for given
    }

    def prepared(self, options: AuditCommand) -> Prepared:
        return Prepared(SOURCE, "", lambda: Made(self.read()))

    def read(self) -> list[dict[str, Any]]:
        """The rows: every figure counted again, and what the tables' rows imply for one another."""
        counted = list(recount())
        follows = [{**it, "kind": "consequence"} for it in consequences(counted)]
        return [{**it, "kind": "recount"} for it in counted] + follows

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One line per table row and quantity, and per statement, with its verdict and what it rests on."""
        seen = results.records(rows)
        counted = judgement.judged([it for it in seen if it["kind"] == "recount"])
        follows = judgement.followed([it for it in seen if it["kind"] == "consequence"])
        lines = [{name: line.get(CALLED.get(name, name)) for name in SUMMARY} for line in (*counted, *follows)]
        whole = ("sampling_steps", "nearest_steps", "conventions", "conventions_fitting")
        return pd.DataFrame(lines).astype(dict.fromkeys(whole, "Int64"))

    def figure(self, rows: pd.DataFrame) -> Figure:
        return deviations.figure(rows)

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        return {}

    def tables(self, rows: pd.DataFrame) -> list[RenderableType]:
        return audit_tables.terminal(self.summarise(rows))

    def told(self, rows: pd.DataFrame) -> dict[str, Any]:
        return self.said(rows)

    def said(self, rows: pd.DataFrame) -> dict[str, Any]:
        """How often the summary gives each verdict."""
        counts = self.summarise(rows)["verdict"].value_counts(sort=False)
        return {"verdicts": {str(name): int(count) for name, count in counts.items()}}
