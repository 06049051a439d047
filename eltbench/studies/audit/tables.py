"""The audit's summary in the forms that people read: tables of a terminal, and of a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import RenderableType
from rich.table import Table

from eltbench.core import tables
from eltbench.evidence.results import records
from eltbench.studies.audit.paper.conventions import NOT_RECOMPUTABLE
from eltbench.studies.audit.paper.judgement import FAILS, FITS, HOLDS, NONE_FITS, OTHER_STEPS

COLOURS = {FITS: "green", HOLDS: "green", OTHER_STEPS: "yellow", NONE_FITS: "red", FAILS: "red"}
RECOUNTED = ("table", "row", "quantity", "printed", "recomputed", "deviation, %", "verdict", "convention")
FOLLOWED = ("statement", "expected", "found", "verdict", "claim", "remark")
NUMBERS = ("printed", "recomputed", "deviation, %", "expected", "found")

Cells = tuple[str, ...]


def terminal(summary: pd.DataFrame) -> list[RenderableType]:
    """What was counted again, what was not and why, and what follows."""
    counted, follows = (summary[summary["kind"] == kind] for kind in ("recount", "consequence"))
    return [
        _table("counted again", RECOUNTED, _recounted(counted)),
        _left_out(counted),
        _table("what follows", FOLLOWED, _followed(follows)),
    ]


def markdown(summary: pd.DataFrame) -> str:
    """The same for a document."""
    counted, follows = (summary[summary["kind"] == kind] for kind in ("recount", "consequence"))
    above, below = ((RECOUNTED, _recounted(counted)), (FOLLOWED, _followed(follows)))
    return f"{tables.markdown(*above, NUMBERS)}\n{_left_out(counted)}\n\n{tables.markdown(*below, NUMBERS)}"


def _recounted(lines: pd.DataFrame) -> Iterator[Cells]:
    """The figures that can be counted again, and those printed without what it takes."""
    silent = lines["reported"].isna() & lines["recomputed"].isna()
    for line in records(lines[~silent & ~lines["quantity"].isin(NOT_RECOMPUTABLE)]):
        about = line["convention"] or line["reason"]
        if line["nearest_steps"] is not None:
            about += f"; {line['recomputed_at_nearest_steps']:.4g} with {line['nearest_steps']:.0f} steps"
            about += f" instead of {line['sampling_steps']:.0f}"
        forms = {"reported": "g", "recomputed": ".4g", "deviation_percent": "+.2f"}
        numbers = (_number(line[name], form) for name, form in forms.items())
        yield line["table"], line["model"], line["quantity"], *numbers, line["verdict"], about


def _left_out(lines: pd.DataFrame) -> str:
    """What is printed and cannot be counted again, and what every convention takes for given, in words."""
    figures = lines[lines["quantity"].isin(NOT_RECOMPUTABLE) & lines["reported"].notna()]
    reasons: dict[str, list[str]] = {}
    for name, count in figures.groupby("quantity", sort=False).size().items():
        reasons.setdefault(NOT_RECOMPUTABLE[str(name)], []).append(f"{count} of {name}")
    said = [f"Not counted again: figures that are {why} ({', '.join(which)})." for why, which in reasons.items()]
    assumed = lines[lines["assumed"].notna()].drop_duplicates("table")
    said += [f"Taken for given in {line['table']}: {line['assumed']}." for line in records(assumed)]
    return "\n".join(said)


def _followed(lines: pd.DataFrame) -> Iterator[Cells]:
    for line in records(lines):
        numbers = (_number(line[name], ".5g") for name in ("reported", "recomputed"))
        remark = line["reason"] or (f"best: {line['convention']}" if line["convention"] else "")
        yield line["statement"], *numbers, line["verdict"], line["claim"] or "", remark


def _table(title: str, head: Sequence[str], rows: Iterator[Cells]) -> Table:
    shown = tables.terminal(head, numbers=NUMBERS, title=title)
    verdict = head.index("verdict")
    for cells in rows:
        colour = COLOURS.get(cells[verdict])
        coloured = f"[{colour}]{cells[verdict]}[/]" if colour else cells[verdict]
        shown.add_row(*cells[:verdict], coloured, *cells[verdict + 1 :])
    return shown


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
