"""From a study's rows to its verdicts, and the verdicts in the forms that people and programs read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from eltbench.core import tables
from eltbench.evidence import claims
from eltbench.evidence.claims import Decision, Finding
from eltbench.evidence.question import Found, Question
from eltbench.evidence.regions import Region, quantity

LEVEL = 0.95
TIMED = "timed on this machine"
MARKS = {"supported": "✔", "contradicted": "✘", "inconclusive": "?"}  # a verdict is never told by colour alone
COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


def decide(question: Question, rows: pd.DataFrame, evidence: Found, *, smoke: bool) -> list[Decision]:
    """One decision a claim, intervals widened over all of them, decided or not."""
    shared: dict[str, Any] = {"level": LEVEL, "comparisons": len(question.claims)}
    found = []
    for claim in question.claims:
        if claim.undecidable:
            found.append(Decision(claim, "inconclusive", claim.undecidable, **shared, cells=()))
        else:
            decision = claims.decide(claim, evidence.get(claim.id, {}), **shared, preset_is_smoke=smoke)
            absent = "" if decision.cells else question.why_nothing(rows, claim)
            found.append(replace(decision, reason=absent) if absent else decision)
    return found


def withheld(decisions: Sequence[Decision]) -> list[str]:
    """One line for every result that has no verdict although its interval alone would give one: why."""
    return [
        f"{decision.claim.id} in {' '.join(cell.cell)}: {entry.reason}"
        for decision in decisions
        for cell in decision.cells
        for entry in cell.conditions
        if entry.verdict == "inconclusive" and entry.primary.interval.n >= claims.FEWEST_SEEDS
        if entry.primary.region.verdict(entry.primary.interval) != "inconclusive"
    ]


def as_json(study: str, preset: str, decisions: Sequence[Decision]) -> str:
    """The text of claims.json: everything down to the interval of every witness."""
    found = {decision.claim.id: decision.to_dict() for decision in decisions}
    return json.dumps({"study": study, "preset": preset, "claims": found}, indent=1, allow_nan=False) + "\n"


def content(study: Question, preset: str, decisions: Sequence[Decision], rows: pd.DataFrame) -> dict[str, Any]:
    """The content of claims.json: the decisions, and what else the study tells of its rows."""
    found = {decision.claim.id: {**decision.to_dict(), "intervals_cover": study.covers} for decision in decisions}
    return {"study": study.name, "preset": preset, "claims": found, **study.told(rows)}


def frame(decisions: Sequence[Decision]) -> pd.DataFrame:
    """One line a claim, cell, condition and witness: verdict, effect, interval and region on its scale.

    Columns: claim, task, dataset, backend, condition, estimand, cell_verdict (of the condition there) and those of
    a witness in claims.json, the region as region_low and region_high, with infinite bounds as such.
    """
    lines = []
    for decision in decisions:
        for cell in decision.cells:
            for entry in cell.conditions:
                about = {"estimand": entry.condition.estimand, "cell_verdict": entry.verdict}
                known = {"claim": decision.claim.id, **cell.cell._asdict(), "condition": entry.condition.name, **about}
                for finding in (entry.primary, entry.second):
                    if finding is not None:
                        bounds = {"region_low": finding.region.low, "region_high": finding.region.high}
                        lines.append({**known, **_plainly(finding), **bounds})
    return pd.DataFrame(lines)


def _plainly(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in finding.to_dict().items() if name not in ("region", "percent")}


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
    """The claims for a terminal of 80 columns or more: one line a claim, cell and condition, longer ones folded."""
    shown = tables.terminal(())
    shown.add_column(
        "claim", no_wrap=True, min_width=max((len(decision.claim.id) for decision in decisions), default=0)
    )
    shown.add_column("verdict", no_wrap=True, min_width=max(map(len, COLOURS)))
    shown.add_column("measured", ratio=4)
    shown.add_column("effect, interval", ratio=3)
    shown.add_column("supported if", ratio=2)
    shown.add_column("n", justify="right", no_wrap=True)
    for decision in decisions:
        found = [(cell, entry) for cell in decision.cells for entry in cell.conditions]
        name = decision.claim.id
        if not found:
            shown.add_row(name, _coloured(decision.verdict), "not measured in this preset", "", "", "0")
        if len(found) > 1:
            shown.add_row(name, _coloured(decision.verdict), f"all {len(found)} results together", "", "", "")
            name = ""
        for cell, entry in found:
            about = f"{escape(' '.join(cell.cell))}: {entry.condition.estimand}"
            shown.add_row(name, _coloured(entry.verdict), about, *_found(entry.primary))
            if entry.second is not None:
                about = f"[dim]second witness: {entry.second.witness.replace('_', ' ')}[/dim]"
                shown.add_row("", f"[dim]{entry.second.verdict}[/dim]", about, *_found(entry.second))
    return shown


def _found(finding: Finding) -> tuple[str, str, str]:
    """What one witness found, its region, and its number of seeds."""
    interval = finding.interval
    estimate, low, high = (quantity(getattr(interval, name), finding.scale) for name in ("estimate", "low", "high"))
    if not interval.n:
        effect = "not measured"
    elif math.isnan(interval.estimate):
        effect = "not a finite number in every seed"
    elif interval.n == 1:
        effect = f"{estimate}; one seed gives no interval"
    else:
        effect = f"{estimate}, {low} to {high}"
    return effect, finding.region.describe(finding.scale), str(interval.n)


def _coloured(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]"


def markdown(found: dict[str, Any]) -> str:
    """The table that documents show, from the content of a claims.json: one line a claim, cell and condition.

    The verdict of the whole claim stands beside its name.
    """
    head = "claim", "where", "verdict here", "measured", "effect [interval]", "supported if", "second witness", "seeds"
    lines = []
    for id, claim in found["claims"].items():
        name = f"`{id}`: {claim['verdict']}"
        for cell in claim["cells"]:
            for condition in cell["conditions"]:
                first, *second = condition["witnesses"]
                cells = (
                    name,
                    claims.Cell.of(cell).name,
                    f"**{condition['verdict']}**",
                    condition["estimand"],
                    interval_in_words(first),
                    region_in_words(first),
                    f"{second[0]['verdict']}: {interval_in_words(second[0])}" if second else "–",
                    str(first["n"]),
                )
                lines.append(cells)
                name = ""
    return tables.markdown(head, lines)


def overview(found: Sequence[dict[str, Any]]) -> str:
    """One row a claim and one column a world, from the contents of several claims.json: a mark and an effect a cell.

    Of several results of a claim in one world, that of torch and of the largest preset is shown, with a star where
    another reads otherwise. The effect is the largest of the conditions which decide. What was timed on a machine
    stands in a column of its own: how many of its cells have the claim's commonest verdict.
    """
    results = sorted(found, key=lambda each: -sum(len(claim["cells"]) for claim in each["claims"].values()))
    told = {id: claim["statement"] for each in found for id, claim in each["claims"].items()}
    shown: dict[str, dict[str, list[Mapping[str, Any]]]] = {id: {} for id in told}
    for each in results:
        for id, claim in each["claims"].items():
            for cell in claim["cells"]:
                timed = "intervals_cover" in claim and claim["intervals_cover"] != claims.COVERS
                world = TIMED if timed else f"{cell['task']} {cell['dataset']}"
                shown[id].setdefault(world, []).append(cell)
    counts = Counter(world for its in shown.values() for world in its)
    worlds = sorted(counts, key=lambda world: (world == TIMED, -counts[world], world))
    lines = [
        (f"`{id}`: {statement}", *(_in_short(world, shown[id].get(world, [])) for world in worlds))
        for id, statement in told.items()
        if shown[id]
    ]
    return tables.markdown(("claim", *worlds), lines)


def _in_short(world: str, cells: Sequence[Mapping[str, Any]]) -> str:
    """What one cell of the overview says of results that were measured in one world."""
    if not cells:
        return ""
    if world == TIMED:
        (verdict, count), *_ = Counter(cell["verdict"] for cell in cells).most_common()
        return f"{MARKS[verdict]} in {count} of {len(cells)}"
    cell = min(cells, key=lambda cell: cell["backend"] != "torch")
    deciding = [each for each in cell["conditions"] if each["verdict"] == cell["verdict"]] or cell["conditions"]
    witness = max((each["witnesses"][0] for each in deciding), key=lambda each: abs(each["estimate"] or 0))
    star = "*" if any(other["verdict"] != cell["verdict"] for other in cells) else ""
    return f"{MARKS[cell['verdict']]} {estimate_in_words(witness)}{star}"


def estimate_in_words(witness: Mapping[str, Any]) -> str:
    """The effect alone."""
    return "not measured" if witness["estimate"] is None else quantity(witness["estimate"], witness["scale"])


def region_in_words(witness: Mapping[str, Any]) -> str:
    """The region in which a witness of claims.json supports its claim."""
    return Region(*_bounds(witness["region"])).describe(witness["scale"])


def _bounds(region: list[float | None]) -> tuple[float, float]:
    low, high = region
    return -math.inf if low is None else low, math.inf if high is None else high


def interval_in_words(witness: Mapping[str, Any]) -> str:
    """The effect and its interval for people, from a witness of claims.json."""
    low, high = _bounds([witness["low"], witness["high"]])
    if witness["estimate"] is None:
        return "not measured"
    estimate, *ends = (quantity(value, witness["scale"]) for value in (witness["estimate"], low, high))
    return f"{estimate}; one seed gives no interval" if witness["n"] == 1 else f"{estimate} [{', '.join(ends)}]"
