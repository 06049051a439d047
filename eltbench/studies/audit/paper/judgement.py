"""From the recounted rows of the paper's tables to one verdict per row and quantity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eltbench.studies.audit.paper.recount import Observation

FITS, OTHER_STEPS = "fits", "fits only with another step count"
NONE_FITS, NOT_RECOMPUTED, NOTHING_REPORTED = "no convention fits", "cannot be recomputed", "nothing reported"
HOLDS, FAILS = "holds", "does not hold"


def rows_fitted(counted: Sequence[Observation]) -> dict[str, int]:
    """How many of the observed rows each convention fits, in the conventions' order."""
    fitted: dict[str, int] = {}
    for it in counted:
        if it.get("fits") is not None:
            fitted[it["convention"]] = fitted.get(it["convention"], 0) + bool(it["fits"])
    return fitted


def judged(counted: Sequence[Observation]) -> Iterator[Observation]:
    """One line per table row and quantity, in the tables' order: its verdict, and the convention that it rests on.

    Of several conventions that fit a row, the one is named that fits most rows of its table, the first where equal.
    """
    columns: dict[tuple[str, str], dict[str, list[Observation]]] = {}
    for it in counted:
        columns.setdefault((it["table"], it["metric"]), {}).setdefault(it["model"], []).append(it)
    for rows in columns.values():
        fitted = rows_fitted([it for row in rows.values() for it in row])
        for row in rows.values():
            yield _line(row, fitted)


def followed(consequences: Sequence[Observation]) -> Iterator[Observation]:
    """One line per statement: it holds, it does not, or it cannot be recomputed."""
    for it in consequences:
        verdict = NOT_RECOMPUTED if it.get("value") is None else HOLDS if it["fits"] else FAILS
        yield {**it, "verdict": verdict}


def _line(row: Sequence[Observation], fitted: dict[str, int]) -> Observation:
    """The line of one row and quantity, given how many rows of its table each convention fits."""
    found = [it for it in row if it.get("value") is not None]
    reported = row[0]["reported"] is not None
    if not found:
        return {**row[0], "verdict": NOT_RECOMPUTED if reported else NOTHING_REPORTED}

    def most_fitting(among: Sequence[Observation]) -> Observation:
        return max(among, key=lambda it: fitted.get(it["convention"], 0))

    fitting = [it for it in found if it.get("fits")]
    tried = {"conventions": len(found), "conventions_fitting": len(fitting)}
    if not reported:
        return {**most_fitting(found), "verdict": NOTHING_REPORTED, "reason": "the row prints no figure"}
    if fitting:
        steps = {"nearest_steps": None, "value_at_nearest_steps": None}
        return {**most_fitting(fitting), **tried, **steps, "verdict": FITS}
    elsewhere = [it for it in found if it.get("fits_at_nearest_steps") and fitted[it["convention"]]]
    if elsewhere:
        best = most_fitting(elsewhere)
        reason = f"under the convention of the table's other rows, {best['nearest_steps']} steps fit"
        reason = f"{reason} and the row's {best['sampling_steps']} do not"
        return {**best, **tried, "verdict": OTHER_STEPS, "reason": reason}
    nearest = min(found, key=lambda it: max(it["value"] / it["reported"], it["reported"] / it["value"]))
    return {**nearest, **tried, "verdict": NONE_FITS, "reason": "the nearest convention is shown"}
