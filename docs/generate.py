"""Writes the generated tables of README.md and docs/ anew from the committed results: `python docs/generate.py`.

A table stands between two marks: `<!-- claims: FOLDER -->` (a results folder's verdicts, every interval),
`<!-- compare: FOLDER FOLDER -->` (what moved between two), `<!-- audit: FOLDER -->` (the paper's figures recounted),
`<!-- throughput: FOLDER -->` (a machine's ceilings and ratios), `<!-- signals: FOLDER -->` (what signals add and rules
save), `<!-- past: FOLDER -->` (what models do past L_max), `<!-- variants: FOLDER -->` (what variants of elt do to its
loss), `<!-- gpu-hours: TFLOPS -->` (what the paper's networks take at what a GPU sustains), `<!-- overview -->` (all)
or `<!-- declared: WHAT -->` (columns, limits: as declared), and `<!-- end of … -->`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import eltbench
from eltbench.cli import compare as comparison
from eltbench.core import tables
from eltbench.evidence import schema
from eltbench.evidence.report.page import limits
from eltbench.evidence.report.published import folders
from eltbench.evidence.verdicts import markdown, overview
from eltbench.studies.audit import tables as audit_tables
from eltbench.studies.convergence import variants
from eltbench.studies.disagreement import markdown as disagreement_page
from eltbench.studies.extrapolation import past_max
from eltbench.studies.throughput import tables as throughput_tables

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
KINDS = "claims|compare|audit|throughput|signals|past|variants|gpu-hours|overview|declared"
MARKED = re.compile(rf"(<!-- ({KINDS})(?:: (.*?))? -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)


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


def table(kind: str, about: str) -> str:
    """The table that a mark asks for."""
    if kind == "declared":
        return declared(about)
    if kind == "overview":
        return overview([decided(folder) for folder in published()])
    if kind in ("claims", "throughput") and not (ROOT / about / "claims.json").exists():
        return f"Nothing is published in `{about}`.\n"
    if kind == "claims":
        return markdown(decided(about))
    if kind == "gpu-hours":
        import gpu_hours

        return tables.markdown(
            gpu_hours.HEAD, gpu_hours.lines(list(gpu_hours.of_paper()), float(about)), gpu_hours.HEAD[2:]
        )
    if kind == "audit":
        return audit_tables.markdown(pd.read_csv(ROOT / about / "summary.csv"))
    if kind == "past":
        return past_max.markdown(eltbench.load_rows(ROOT / about))
    if kind == "variants":
        return variants.markdown(pd.read_csv(ROOT / about / "summary.csv"))
    if kind == "signals":
        return disagreement_page.markdown(pd.read_csv(ROOT / about / "summary.csv"))
    if kind == "throughput":
        summary, sentences = pd.read_csv(ROOT / about / "summary.csv"), decided(about)["sentences"]
        return throughput_tables.markdown(eltbench.load_rows(ROOT / about), summary, sentences)
    first, second = about.split()
    return comparison.markdown(comparison.compare(ROOT / first, ROOT / second), (Path(first).name, Path(second).name))


def refreshed(text: str) -> str:
    """A page with every table between marks written anew."""
    return MARKED.sub(lambda found: f"{found[1]}{table(found[2], found[3])}{found[5]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
