"""The claims as data, and the one rule that turns per-seed effects into a verdict.

A claim holds one or several conditions, each an estimand with an open region stated before the run. A condition is
supported when the interval of its effect lies inside the region, contradicted when it is disjoint from it, and
inconclusive otherwise, so interval and verdict cannot disagree.

What an interval covers: training seeds only, conditional on one data split and one feature extractor. It is widened
(Bonferroni) over the claims of one study and family, not over cells (task × dataset × backend): a cell's verdict holds
at the stated rate by itself; a claim's verdict, for which all its cells must agree, holds at it for any number of
cells.

Signs: an effect is its estimand's first part against its second ("loss at L_max/2 over L_max"), ln(first/second) or
first − second. Loss and kernel distance are lower-is-better: in both a positive effect says the first is worse.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from eltbench.core.validation import unknown
from eltbench.evidence.intervals import Interval, NonFiniteError, cohens_dz, paired_interval, percent
from eltbench.evidence.regions import Region, Scale, Verdict, quantity

FEWEST_SEEDS = 3  # fewer give no verdict; six claims then need |mean|/sd of 6.3, and of 2.2 at five seeds
COVERS = (
    "training seeds and the noise of sampling, "
    "conditional on one data split, one draw of held-out corruptions and one feature extractor"
)


class Condition(NamedTuple):
    """One estimand of a claim: its key, what is compared, and the region on its scale.

    compares: the models of the numerator and of the denominator, in the study's own form.
    """

    name: str
    estimand: str
    region: Region
    scale: Scale = "log-ratio"
    compares: tuple[Any, ...] = ()

    @classmethod
    def of_ratio(cls, name: str, estimand: str, *compares: Any, **bounds: float) -> Condition:
        """One on a log-ratio, its bounds given as ratios (see `Region.of_ratio`)."""
        return cls(name, estimand, Region.of_ratio(**bounds), compares=compares)


@dataclass(frozen=True)
class Claim:
    """A statement with its conditions, declared beside the study that decides it, before anything is run.

    kind: headline, mechanism or limitation of the paper, or open question. needs: the models whose rows are compared,
    as values of columns; a plan with a limited budget keeps these first. undecidable: why no row of one command could
    decide it; a claim without conditions has one.
    """

    id: str
    kind: str
    statement: str
    conditions: tuple[Condition, ...]
    paper_section: str = ""
    reference: str = ""
    needs: tuple[Mapping[str, Any], ...] = ({"role": "main"},)
    undecidable: str = ""
    family: str = ""  # the claims of a study whose intervals are widened together

    def __post_init__(self) -> None:
        if not self.conditions and not self.undecidable:
            raise ValueError(f"claim {self.id!r} has no condition to decide by; give one, or say why it is undecidable")
        if len({condition.name for condition in self.conditions}) < len(self.conditions):
            raise ValueError(f"claim {self.id!r} names a condition twice: {[each.name for each in self.conditions]}")


class Cell(NamedTuple):
    """Where a verdict was measured."""

    task: str
    dataset: str
    backend: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Cell:
        """The cell that an entry of a claims.json names."""
        return cls(entry["task"], entry["dataset"], entry["backend"])

    @property
    def name(self) -> str:
        """The cell in words."""
        return " ".join(self)


@dataclass(frozen=True)
class Witness:
    """A second witness of quality: additive per-seed effects by condition, a margin in the metric's own units."""

    name: str
    effects: Mapping[str, ArrayLike]
    margin: float


@dataclass(frozen=True)
class Evidence:
    """Per-seed effects (n,) of every condition on its own scale, and a second witness where there is one.

    primary: an entry for each condition, empty where nothing was measured. second: of some conditions; its region is
    the condition's with `Region.with_margin`. absent: seeds of this cell that a condition lacks, by condition; with
    such a gap there is no verdict, since the runs that failed may differ from the others. without: another reason for
    no verdict, by condition. asks: the conditions that exist in this cell, where not all do; `primary` has no others.
    counts: the conditions whose effects are counts (steps up to a horizon, shares of trials, bytes), which may agree
    exactly: other effects that agree exactly come from one network compared with itself, and give no verdict.
    """

    primary: Mapping[str, ArrayLike]
    second: Witness | None = None
    absent: Mapping[str, Sequence[int]] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    asks: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What one witness says of one condition."""

    witness: str
    scale: Scale
    region: Region
    interval: Interval
    effect_size: float  # Cohen's d_z against no effect
    verdict: Verdict
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, null for what is infinite or undefined; percentages too where the scale is log-ratio."""
        effect = {name: _plain(getattr(self.interval, name)) for name in ("estimate", "low", "high")}
        values: dict[str, Any] = {
            "witness": self.witness,
            "scale": self.scale,
            "region": [_plain(self.region.low), _plain(self.region.high)],
            **effect,
            "n": self.interval.n,
            "cohens_dz": _plain(self.effect_size),
            "verdict": self.verdict,
            "reason": self.reason,
        }
        if self.scale == "log-ratio":
            values["percent"] = {
                name: value if value is None else _plain(percent(value)) for name, value in effect.items()
            }
        return values


@dataclass(frozen=True)
class ConditionVerdict:
    """One condition in one cell: the primary witness decides, the second can only withdraw its verdict."""

    condition: Condition
    primary: Finding
    second: Finding | None
    verdict: Verdict
    reason: str

    @property
    def findings(self) -> list[Finding]:
        """Those of every witness, the primary first."""
        return [self.primary] if self.second is None else [self.primary, self.second]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, every witness shown."""
        return {
            "condition": self.condition.name,
            "estimand": self.condition.estimand,
            "verdict": self.verdict,
            "reason": self.reason,
            "witnesses": [finding.to_dict() for finding in self.findings],
        }


@dataclass(frozen=True)
class CellVerdict:
    """One cell: supported when all conditions are, contradicted when any is, otherwise inconclusive."""

    cell: Cell
    conditions: tuple[ConditionVerdict, ...]
    verdict: Verdict
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        conditions = [entry.to_dict() for entry in self.conditions]
        return {**self.cell._asdict(), "verdict": self.verdict, "reason": self.reason, "conditions": conditions}


@dataclass(frozen=True)
class Decision:
    """A claim's verdict with its cells; intervals are widened to `level` over `comparisons` claims."""

    claim: Claim
    verdict: Verdict
    reason: str
    level: float
    comparisons: int
    cells: tuple[CellVerdict, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: verdict, reason, and each cell down to the interval of every witness."""
        return {
            "claim": self.claim.id,
            **{name: getattr(self.claim, name) for name in ("kind", "statement", "paper_section", "reference")},
            **{name: getattr(self, name) for name in ("verdict", "reason", "level", "comparisons")},
            "interval_level": 1 - (1 - self.level) / self.comparisons,
            "intervals_cover": COVERS,
            "cells": [cell.to_dict() for cell in self.cells],
        }


def decide(
    claim: Claim,
    evidence: Mapping[Cell, Evidence],
    *,
    comparisons: int,
    level: float = 0.95,
    preset_is_smoke: bool = False,
) -> Decision:
    """The verdict on a claim from per-seed effects in each cell, intervals widened over `comparisons` claims.

    The claim is supported where every cell is, contradicted where every cell is, inconclusive otherwise: a claim that
    holds in one cell and fails in another is neither. Where cells have different conditions, this holds for the cells
    of each, and the claim is contradicted where the cells of one of them contradict it. Fewer than three seeds, an
    effect that is not finite, effects that agree exactly and are not counts, a smoke preset and a condition without a
    cell read inconclusive, with the reason. Raises ValueError for a claim without conditions and for evidence whose
    conditions are not the claim's.
    """
    if not claim.conditions:
        raise ValueError(f"claim {claim.id!r} has no interval to decide by: {claim.undecidable}")

    def find(witness: str, effects: ArrayLike, scale: Scale, region: Region, counts: bool = False) -> Finding:
        try:
            interval = paired_interval(effects, level=level, comparisons=comparisons)
        except NonFiniteError as error:
            nothing = replace(paired_interval((), level=level, comparisons=comparisons), n=np.size(effects))
            return Finding(witness, scale, region, nothing, math.nan, "inconclusive", str(error))
        verdict, reason = _judge(interval, region, scale, preset_is_smoke, counts)
        return Finding(witness, scale, region, interval, cohens_dz(effects), verdict, reason)

    cells = []
    for cell, shown in evidence.items():
        _check_names(claim, cell, shown)
        conditions = []
        for condition in claim.conditions:
            name = condition.name
            if shown.asks and name not in shown.asks:
                continue
            primary = find("primary", shown.primary[name], condition.scale, condition.region, name in shown.counts)
            reason = shown.without.get(name, "")
            if not reason and (gap := list(shown.absent.get(name, ()))):
                reason = f"seeds {gap} lack one side: their runs failed, or were not asked for"
            if reason:
                primary = replace(primary, verdict="inconclusive", reason=reason)
            second = None
            if shown.second is not None and name in shown.second.effects:
                region = condition.region.with_margin(shown.second.margin)
                second = find(shown.second.name, shown.second.effects[name], "additive", region)
            verdict, reason = primary.verdict, primary.reason
            if second is not None and {verdict, second.verdict} == {"supported", "contradicted"}:
                verdict, reason = "inconclusive", f"the witnesses disagree: {reason}; {second.witness} {second.reason}"
            conditions.append(ConditionVerdict(condition, primary, second, verdict, reason))
        verdict = _strongest(entry.verdict for entry in conditions)
        reasons = [f"{entry.condition.name}: {entry.reason}" for entry in conditions if entry.verdict == verdict]
        cells.append(CellVerdict(cell, tuple(conditions), verdict, "; ".join(reasons)))
    verdict = _together(cells)
    tally = ", ".join(f"{count} {name}" for name, count in sorted(Counter(cell.verdict for cell in cells).items()))
    reason = cells[0].reason if len(cells) == 1 else f"of {len(cells)} cells: {tally}" if cells else "nothing measured"
    asked = {entry.condition.name for cell in cells for entry in cell.conditions}
    if unasked := [condition.name for condition in claim.conditions if cells and condition.name not in asked]:
        verdict, reason = "inconclusive", f"{reason}; no cell speaks to {' and '.join(unasked)}"
    return Decision(claim, verdict, reason, level, comparisons, tuple(cells))


def _judge(
    interval: Interval, region: Region, scale: Scale, preset_is_smoke: bool, counts: bool
) -> tuple[Verdict, str]:
    if preset_is_smoke:
        return "inconclusive", "a smoke preset is too small to judge by"
    if interval.n < FEWEST_SEEDS:
        return "inconclusive", f"a verdict takes at least {FEWEST_SEEDS} seeds, there are {interval.n}"
    estimate, low, high = (quantity(getattr(interval, name), scale) for name in ("estimate", "low", "high"))
    if interval.low == interval.high and not counts:
        exactly = f"all {interval.n} effects are exactly {estimate}, as of one network"
        return "inconclusive", f"no spread between seeds: {exactly}"
    verdict = region.verdict(interval)
    where = {"supported": "inside", "contradicted": "outside", "inconclusive": "partly inside"}[verdict]
    return verdict, f"{low} to {high} is {where} the region, {region.describe(scale)}"


def _strongest(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that decides of several: any contradiction, else any doubt."""
    order: tuple[Verdict, ...] = ("supported", "inconclusive", "contradicted")
    return max(verdicts, key=order.index)


def _together(cells: Sequence[CellVerdict]) -> Verdict:
    """The verdict of all cells: of those with the same conditions first, then as of the conditions of one cell."""
    groups: dict[tuple[str, ...], set[Verdict]] = {}
    for cell in cells:
        groups.setdefault(tuple(entry.condition.name for entry in cell.conditions), set()).add(cell.verdict)
    found: list[Verdict] = [its.pop() if len(its) == 1 else "inconclusive" for its in groups.values()]
    return _strongest(found or ["inconclusive"])


def _check_names(claim: Claim, cell: Cell, shown: Evidence) -> None:
    known = [condition.name for condition in claim.conditions]
    for name in [*shown.asks, *shown.primary, *(shown.second.effects if shown.second is not None else ())]:
        if name not in known:
            raise ValueError(unknown(f"condition of claim {claim.id!r}", name, known))
    if missing := [name for name in shown.asks or known if name not in shown.primary]:
        raise ValueError(
            f"claim {claim.id!r} in {'/'.join(cell)} lacks conditions {missing}; "
            "give an empty array where nothing was measured"
        )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
