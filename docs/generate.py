"""Writes the generated tables of README.md and docs/ anew from the committed results: `python docs/generate.py`.

A table stands between the marks `<!-- KIND: FOLDER -->` and `<!-- end of KIND -->`; the kinds are those of TABLES.
`compare` takes two folders, `gpu-hours` TFLOPS, `declared` columns or limits, `gallery` the folder of all results,
`overview` nothing. With --figures the published figures are drawn anew first.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import eltbench
from eltbench import studies
from eltbench.cli import compare as comparison
from eltbench.core import tables
from eltbench.evidence import figures, schema
from eltbench.evidence.report.page import limits
from eltbench.evidence.report.published import folders
from eltbench.evidence.verdicts import markdown, overview
from eltbench.studies.audit import tables as audit_tables
from eltbench.studies.convergence import variants
from eltbench.studies.disagreement import markdown as disagreement_page
from eltbench.studies.extrapolation import past_max
from eltbench.studies.throughput import tables as throughput_tables
from eltbench.studies.tuning import sensitivity

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))


def published() -> list[str]:
    """The results folders; those of narrow presets are made by users and not committed."""
    return [str(folder.relative_to(ROOT)) for folder in folders(ROOT / "results")]


def decided(folder: str) -> dict[str, Any]:
    """The content of a folder's claims.json."""
    return json.loads((ROOT / folder / "claims.json").read_text(encoding="utf-8"))


def declared(what: str) -> str:
    """The shared columns of rows, or what the package cannot show (limits)."""
    if what == "columns":
        shared = [(f"`{name}`", str(it.type), it.meaning) for name, it in schema.COLUMNS.items()]
        return tables.markdown(("column", "type", "what it is"), shared)
    return tables.markdown(("what", "why", "shown instead"), [tuple(line.values()) for line in limits()])


def compared(folders: str) -> str:
    """What moved between two results folders."""
    first, second = map(Path, folders.split())
    return comparison.markdown(comparison.compare(ROOT / first, ROOT / second), (first.name, second.name))


def throughput(folder: str) -> str:
    """A machine's ceilings and ratios."""
    rows = eltbench.load_rows(ROOT / folder)
    return throughput_tables.markdown(rows, summary(folder), decided(folder)["sentences"])


def summary(folder: str) -> pd.DataFrame:
    """A results folder's summary.csv."""
    return pd.read_csv(ROOT / folder / "summary.csv")


def hours(teraflops: str) -> str:
    """What the paper's networks take at what a GPU sustains."""
    import gpu_hours

    lines = gpu_hours.lines(list(gpu_hours.of_paper()), float(teraflops))
    return tables.markdown(gpu_hours.HEAD, lines, gpu_hours.HEAD[2:])


def gallery(of: str) -> str:
    """The figure of every folder that is published below one, under a title that leads to its study's page."""
    lines = []
    for folder in published():
        if folder.startswith(of):
            study, *preset = Path(folder).parts[1:]
            name = " ".join([study, *preset])
            lines.append(f"## [{name}]({study}.md)\n\n![The figure of {name}](../{folder}/figure.png)\n")
    return "\n".join(lines)


TABLES: dict[str, Callable[[str], str]] = {
    "claims": lambda folder: markdown(decided(folder)),
    "compare": compared,
    "audit": lambda folder: audit_tables.markdown(summary(folder)),
    "throughput": throughput,
    "signals": lambda folder: disagreement_page.markdown(summary(folder)),
    "past": lambda folder: past_max.markdown(eltbench.load_rows(ROOT / folder)),
    "variants": lambda folder: variants.markdown(summary(folder)),
    "gallery": gallery,
    "choices": lambda folder: sensitivity.markdown(summary(folder)),
    "gpu-hours": hours,
    "overview": lambda _: overview([decided(folder) for folder in published()]),
    "declared": declared,
}
MARKED = re.compile(rf"(<!-- ({'|'.join(TABLES)})(?:: (.*?))? -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)


def table(kind: str, about: str) -> str:
    """The table that a mark asks for."""
    if kind in ("claims", "choices", "throughput") and not (ROOT / about / "claims.json").exists():
        return f"Nothing is published in `{about}`.\n"
    return TABLES[kind](about)


def refreshed(text: str) -> str:
    """A page with every table between marks written anew."""
    return MARKED.sub(lambda found: f"{found[1]}{table(found[2], found[3])}{found[5]}", text)


def redrawn() -> None:
    """Draw the figure of every published folder anew from its rows, after the code that draws it changed."""
    for folder in map(ROOT.joinpath, published()):
        rows = eltbench.load_rows(folder)
        with figures.plain():
            figures.save(studies.create(rows["study"].iloc[0]).figure(rows), folder / "figure")


if __name__ == "__main__":
    if "--figures" in sys.argv[1:]:
        redrawn()
    for page in PAGES:
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
