"""From a study's rows to its verdicts, and the verdicts in the forms that people and programs read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from eltbench import claims
from eltbench.claims import Decision, Finding
from eltbench.regions import quantity
from eltbench.studies.base import Study

COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


def decide_all(study: Study, rows: pd.DataFrame, *, smoke: bool) -> list[Decision]:
    """One decision per claim of the study, intervals widened over all of them, decided or not."""
    evidence = study.evidence(rows)
    count = len(study.claims)
    return [
        claims.decide(claims.claim(id), evidence.get(id, {}), comparisons=count, preset_is_smoke=smoke)
        for id in study.claims
    ]


def as_json(study: str, preset: str, decisions: Sequence[Decision]) -> str:
    """The text of claims.json: everything down to the interval of every witness."""
    found = {decision.claim.id: decision.to_dict() for decision in decisions}
    return json.dumps({"study": study, "preset": preset, "claims": found}, indent=1) + "\n"


def in_short(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Claim id → verdict and cells, for the one JSON line that ends a command's output."""
    return {
        decision.claim.id: {
            "verdict": decision.verdict,
            "cells": [{**cell.cell._asdict(), "verdict": cell.verdict} for cell in decision.cells],
        }
        for decision in decisions
    }


def table(decisions: Sequence[Decision]) -> Table:
    """The claims for a terminal: one line a claim, cell and condition."""
    shown = Table("claim", "where", "verdict", "estimand", "effect [interval]", "region", "n", show_lines=False)
    for decision in decisions:
        if not decision.cells:
            shown.add_row(decision.claim.id, "–", _coloured(decision.verdict), "not measured in this preset")
        for cell in decision.cells:
            where = f"{cell.cell.task} {cell.cell.dataset} {cell.cell.backend}"
            for entry in cell.conditions:
                for finding in (entry.primary, entry.second):
                    if finding is None:
                        continue
                    main = finding is entry.primary
                    shown.add_row(
                        decision.claim.id if main else "",
                        where if main else "",
                        _coloured(entry.verdict) if main else f"[dim]{finding.verdict}[/dim]",
                        entry.condition.estimand if main else f"  {finding.witness.replace('_', ' ')}",
                        _effect(finding),
                        finding.region.describe(finding.scale),
                        str(finding.interval.n),
                    )
    return shown


def _effect(finding: Finding) -> str:
    interval = finding.interval
    if not interval.n:
        return "not measured"
    low, high = quantity(interval.low, finding.scale), quantity(interval.high, finding.scale)
    return f"{quantity(interval.estimate, finding.scale)} \\[{low}, {high}]"


def _coloured(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]"
