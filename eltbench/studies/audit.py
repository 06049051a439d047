"""Audit: do the figures of the paper's tables follow from the networks that the tables describe?

Parameters, GFLOPs and depth of every row are counted again under every declared convention; the verdict of a row says
whether one of them gives the printed figure. What the rows imply for one another is held against them as well. Nothing
is trained: `python -m eltbench.studies.audit` takes seconds.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure
from rich import box
from rich.console import RenderableType
from rich.table import Table

from eltbench.paper import judgement
from eltbench.paper.consequences import consequences
from eltbench.paper.conventions import NOT_RECOMPUTABLE
from eltbench.paper.recount import recount
from eltbench.studies import deviations, register
from eltbench.studies.reading import Reading

COLOURS = {
    judgement.FITS: "green",
    judgement.HOLDS: "green",
    judgement.OTHER_STEPS: "yellow",
    judgement.NONE_FITS: "red",
    judgement.FAILS: "red",
}
LINE = {
    "kind": "kind",
    "table": "table",
    "model": "model",
    "metric": "quantity",
    "claim": "claim",
    "statement": "statement",
    "reported": "reported",
    "convention": "convention",
    "value": "recomputed",
    "deviation_percent": "deviation_percent",
    "verdict": "verdict",
    "sampling_steps": "sampling_steps",
    "nearest_steps": "nearest_steps",
    "value_at_nearest_steps": "recomputed_at_nearest_steps",
    "conventions": "conventions",
    "conventions_fitting": "conventions_fitting",
    "reason": "reason",
}
"""The columns of the summary: what they are called in a line of `judgement`, and there."""


@register("audit", version=1)
class Audit(Reading):
    """Every figure of the paper's tables, recomputed."""

    source = "paper"
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
    }

    def read(self) -> list[dict[str, Any]]:
        counted = list(recount())
        follows = [{**it, "kind": "consequence"} for it in consequences(counted)]
        return [{**it, "kind": "recount"} for it in counted] + follows

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One line per table row and quantity, and per statement, with its verdict and what it rests on."""
        seen = _plain(rows)
        counted = judgement.judged([it for it in seen if it["kind"] == "recount"])
        follows = judgement.followed([it for it in seen if it["kind"] == "consequence"])
        lines = [{name: line.get(key) for key, name in LINE.items()} for line in (*counted, *follows)]
        whole = ("sampling_steps", "nearest_steps", "conventions", "conventions_fitting")
        return pd.DataFrame(lines).astype(dict.fromkeys(whole, "Int64"))

    def figure(self, rows: pd.DataFrame) -> Figure:
        return deviations.figure(rows)

    def tables(self, summary: pd.DataFrame) -> list[RenderableType]:
        counted, follows = (summary[summary["kind"] == kind] for kind in ("recount", "consequence"))
        return [_recounted(counted), _left_out(counted), _followed(follows)]


def _recounted(lines: pd.DataFrame) -> Table:
    shown = _table("counted again", ("table", "row", "quantity"), ("printed", "recomputed", "deviation, %"))
    shown.add_column("verdict")
    shown.add_column("convention")
    silent = lines["reported"].isna() & lines["recomputed"].isna()
    for line in _plain(lines[~silent & ~lines["quantity"].isin(NOT_RECOMPUTABLE)]):
        forms = {"reported": "g", "recomputed": ".4g", "deviation_percent": "+.2f"}
        numbers = (_number(line[name], form) for name, form in forms.items())
        about = line["convention"] or line["reason"]
        if line["nearest_steps"] is not None:
            about += f"; {line['recomputed_at_nearest_steps']:.4g} with {line['nearest_steps']} steps"
            about += f" instead of {line['sampling_steps']}"
        shown.add_row(line["table"], line["model"], line["quantity"], *numbers, _coloured(line["verdict"]), about)
    return shown


def _left_out(lines: pd.DataFrame) -> str:
    """What is printed and cannot be counted again, in words."""
    figures = lines[lines["quantity"].isin(NOT_RECOMPUTABLE) & lines["reported"].notna()]
    counts = figures.groupby("quantity", sort=False).size()
    said = (f"{count} figures of {name} are {NOT_RECOMPUTABLE[str(name)]}" for name, count in counts.items())
    return "not counted again: " + "; ".join(said)


def _followed(lines: pd.DataFrame) -> Table:
    shown = _table("what follows", ("statement",), ("expected", "found"))
    for name in ("verdict", "claim", "remark"):
        shown.add_column(name)
    for line in _plain(lines):
        numbers = (_number(line[name], ".5g") for name in ("reported", "recomputed"))
        remark = line["reason"] or (f"best: {line['convention']}" if line["convention"] else "")
        shown.add_row(line["statement"], *numbers, _coloured(line["verdict"]), line["claim"] or "", remark)
    return shown


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    for name in left:
        shown.add_column(name)
    for name in right:
        shown.add_column(name, justify="right")
    return shown


def _plain(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines as dictionaries with None for what is missing."""
    known = lines.astype(object).where(lines.notna(), None)
    return [{str(name): value for name, value in line.items()} for line in known.to_dict("records")]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _coloured(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]" if verdict in COLOURS else verdict


if __name__ == "__main__":
    from eltbench.studies.command import main

    sys.exit(main("audit"))
