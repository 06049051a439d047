"""Verdicts in the forms that people and programs read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from eltbench.core import tables
from eltbench.evidence import claims
from eltbench.evidence.claims import CellVerdict, ConditionVerdict, Decision
from eltbench.evidence.regions import Region, quantity

TIMED = "timed on this machine"
MARKS = {"supported": "✔", "contradicted": "✘", "inconclusive": "?"}  # a verdict is never shown by colour alone
COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


def content(study: str, preset: str, decisions: Sequence[Decision], covers: str = claims.COVERS) -> dict[str, Any]:
    """The content of claims.json: the decisions, down to the interval of every witness."""
    found = {decision.claim.id: {**decision.to_dict(), "intervals_cover": covers} for decision in decisions}
    return {"study": study, "preset": preset, "claims": found}


def _entries(decisions: Sequence[Decision]) -> Iterator[tuple[Decision, CellVerdict, ConditionVerdict]]:
    for decision in decisions:
        for cell in decision.cells:
            for entry in cell.conditions:
                yield decision, cell, entry


def withheld(decisions: Sequence[Decision]) -> list[str]:
    """One line for every result that has no verdict although its interval alone would give one: why."""
    return [
        f"{decision.claim.id} in {' '.join(cell.cell)}: {entry.reason}"
        for decision, cell, entry in _entries(decisions)
        if entry.verdict == "inconclusive" and entry.primary.interval.n >= claims.FEWEST_SEEDS
        if entry.primary.region.verdict(entry.primary.interval) != "inconclusive"
    ]


def frame(decisions: Sequence[Decision]) -> pd.DataFrame:
    """One line a claim, cell, condition and witness: verdict, effect, interval and region on its scale.

    Columns: claim, task, dataset, backend, condition, estimand, cell_verdict (of the condition there) and those of
    a witness in claims.json, the region as region_low and region_high, with infinite bounds as such.
    """
    lines = []
    for decision, cell, entry in _entries(decisions):
        about = {"condition": entry.condition.name, "estimand": entry.condition.estimand, "cell_verdict": entry.verdict}
        for finding in entry.findings:
            witness = {name: value for name, value in finding.to_dict().items() if name not in ("region", "percent")}
            bounds = {"region_low": finding.region.low, "region_high": finding.region.high}
            lines.append({"claim": decision.claim.id, **cell.cell._asdict(), **about, **witness, **bounds})
    return pd.DataFrame(lines)


def in_short(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Claim id → verdict and cells, for the one JSON line that ends a command's output."""
    return {
        decision.claim.id: {
            "verdict": decision.verdict,
            "cells": [{**cell.cell._asdict(), "verdict": cell.verdict} for cell in decision.cells],
        }
        for decision in decisions
    }


def brief(decisions: Sequence[Decision]) -> Table:
    """The claims for a terminal of 80 columns, one line each: mark, claim, verdict, and the effect that decides it."""
    shown = Table.grid(padding=(0, 1, 0, 0))
    for _ in range(4):
        shown.add_column(no_wrap=True)
    for decision in decisions:
        colour, found = COLOURS[decision.verdict], decision.to_dict()
        effect = interval_in_words(_deciding(decision.verdict, found["cells"])) if found["cells"] else "not measured"
        mark = MARKS[decision.verdict] if found["cells"] else "–"
        shown.add_row(f"[{colour}]{mark}[/]", decision.claim.id, f"[{colour}]{decision.verdict}[/]", escape(effect))
    return shown


def table(decisions: Sequence[Decision]) -> Table:
    """The claims for a terminal of 80 columns or more: one line a claim, cell and condition, longer ones folded."""
    shown = tables.terminal(())
    longest = max((len(decision.claim.id) for decision in decisions), default=0)
    shown.add_column("claim", no_wrap=True, min_width=longest)
    shown.add_column("verdict", no_wrap=True, min_width=max(map(len, COLOURS)))
    for name, ratio in (("measured", 4), ("effect, interval", 3), ("supported if", 2)):
        shown.add_column(name, ratio=ratio)
    shown.add_column("n", justify="right", no_wrap=True)

    def found(witness: Mapping[str, Any]) -> tuple[str, str, str]:
        return interval_in_words(witness, "{}, {} to {}"), region_in_words(witness), str(witness["n"])

    for decision in decisions:
        name, results = decision.claim.id, list(results_of(decision.to_dict()))
        if not results:
            shown.add_row(name, _coloured(decision.verdict), "not measured in this preset", "", "", "0")
        if len(results) > 1:
            shown.add_row(name, _coloured(decision.verdict), f"all {len(results)} results together", "", "", "")
            name = ""
        for where, condition, primary, second in results:
            about = f"{escape(where)}: {condition['estimand']}"
            shown.add_row(name, _coloured(condition["verdict"]), about, *found(primary))
            if second:
                about = f"[dim]second witness: {second['witness'].replace('_', ' ')}[/dim]"
                shown.add_row("", f"[dim]{second['verdict']}[/dim]", about, *found(second))
    return shown


def _coloured(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]"


Result = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any] | None]


def results_of(claim: Mapping[str, Any]) -> Iterator[Result]:
    """Of a claim in claims.json every cell and condition: where, the condition, its primary and its second witness."""
    for cell in claim["cells"]:
        where = f"{cell['task']} {cell['dataset']} {cell['backend']}"
        for condition in cell["conditions"]:
            primary, *second = condition["witnesses"]
            yield where, condition, primary, second[0] if second else None


def markdown(found: dict[str, Any]) -> str:
    """The table that documents show, from the content of a claims.json: one line a claim, cell and condition.

    The verdict of the whole claim stands beside its name.
    """
    head = "claim", "where", "verdict here", "measured", "effect [interval]", "supported if", "second witness", "seeds"
    lines = []
    for id, claim in found["claims"].items():
        name = f"`{id}`: {claim['verdict']}"
        for where, condition, primary, second in results_of(claim):
            about = (name, where, f"**{condition['verdict']}**", condition["estimand"], interval_in_words(primary))
            other = f"{second['verdict']}: {interval_in_words(second)}" if second else "–"
            lines.append((*about, region_in_words(primary), other, str(primary["n"])))
            name = ""
    return tables.markdown(head, lines)


def overview(found: Sequence[dict[str, Any]]) -> str:
    """One row a claim and one column a world, from the contents of several claims.json: a mark and an effect a cell.

    Of several results of a claim in one world, that of torch and of the largest preset is shown, with a star where
    another reads otherwise. The effect is the largest of the conditions which decide. What was timed on a machine
    stands in a column of its own: how many of its cells have the claim's commonest verdict.
    """
    results = sorted(found, key=lambda each: -sum(len(claim["cells"]) for claim in each["claims"].values()))
    statements = {id: claim["statement"] for each in found for id, claim in each["claims"].items()}
    shown: dict[str, dict[str, list[Mapping[str, Any]]]] = {id: {} for id in statements}
    for each in results:
        for id, claim in each["claims"].items():
            for cell in claim["cells"]:
                timed = claim.get("intervals_cover", claims.COVERS) != claims.COVERS
                world = TIMED if timed else f"{cell['task']} {cell['dataset']}"
                shown[id].setdefault(world, []).append(cell)
    counts = Counter(world for its in shown.values() for world in its)
    worlds = sorted(counts, key=lambda world: (world == TIMED, -counts[world], world))
    lines = [
        (f"`{id}`: {statement}", *(_in_short(world, shown[id].get(world, [])) for world in worlds))
        for id, statement in statements.items()
        if shown[id]
    ]
    return tables.markdown(("claim", *worlds), lines)


def _in_short(world: str, cells: Sequence[Mapping[str, Any]]) -> str:
    """One cell of the overview: all results of a claim in one world."""
    if not cells:
        return ""
    if world == TIMED:
        (verdict, count), *_ = Counter(cell["verdict"] for cell in cells).most_common()
        return f"{MARKS[verdict]} in {count} of {len(cells)}"
    cell = min(cells, key=lambda cell: cell["backend"] != "torch")
    witness = _deciding(cell["verdict"], [cell])
    star = "*" if any(other["verdict"] != cell["verdict"] for other in cells) else ""
    return f"{MARKS[cell['verdict']]} {estimate_in_words(witness)}{star}"


def _deciding(verdict: str, cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The primary witness with the largest effect among the conditions that have this verdict, or else among all."""
    every = [each for cell in cells for each in cell["conditions"]]
    deciding = [each for each in every if each["verdict"] == verdict] or every
    return max((each["witnesses"][0] for each in deciding), key=lambda each: abs(each["estimate"] or 0))


def estimate_in_words(witness: Mapping[str, Any]) -> str:
    """The effect alone, from a witness of claims.json."""
    if witness["estimate"] is None:
        return "not a finite number in every seed" if witness["n"] else "not measured"
    return quantity(witness["estimate"], witness["scale"])


def interval_in_words(witness: Mapping[str, Any], form: str = "{} [{}, {}]") -> str:
    """The effect and its interval."""
    estimate = estimate_in_words(witness)
    if witness["estimate"] is None:
        return estimate
    ends = (quantity(value, witness["scale"]) for value in _bounds([witness["low"], witness["high"]]))
    return f"{estimate}; one seed gives no interval" if witness["n"] == 1 else form.format(estimate, *ends)


def region_in_words(witness: Mapping[str, Any]) -> str:
    """The region in which it supports its claim."""
    return Region(*_bounds(witness["region"])).describe(witness["scale"])


def _bounds(bounds: list[float | None]) -> tuple[float, float]:
    low, high = bounds
    return -math.inf if low is None else low, math.inf if high is None else high
