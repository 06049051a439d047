"""Which signals know where a model is wrong: every signal scored on test items, families against cheap baselines.

Three disjoint sets of items. On the first the event is stated (an error above the upper quartile of its stratum; of all
errors for pooled scores, which the corruption level alone may foresee) and the probes are fitted; on the second signals
are chosen and calibrated; all scores are of the third. The sets are the same for every model of a world.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eltbench.evaluation.signals import calibration, risk_coverage, selective
from eltbench.evaluation.signals.per_sample import PerSample
from eltbench.evaluation.signals.probe import Kind, Probe
from eltbench.evaluation.signals.uncertainty import SIGNALS, nonfinite

Rows = list[dict[str, Any]]

FAMILIES: dict[str, tuple[str, ...]] = {
    "cheap": tuple(name for name, one in SIGNALS.items() if one.baseline and one.one_pass),
    "disagreement": tuple(
        name for name, one in SIGNALS.items() if one.needs == "prediction" and one.may_stop and not one.baseline
    ),
    "convergence": ("relative_update_norm", "state_turn", "update_turn", "relative_acceleration"),
}
"""Signals of one pass by what they look at: `cheap` ones are the baselines that the others have to beat."""

SHARES = (0.3, 0.35, 0.35)  # of the items: to state and fit, to choose and calibrate, to test
PROBES: tuple[Kind, ...] = ("logistic", "boosted")
BESIDE = ("error_rate", "model_error", "irreducible")  # what else a signal may tell of, scored at the deepest exit


@dataclass(frozen=True)
class Parted:
    """The three disjoint sets of units, by item, and the stratum of every unit's corruption level."""

    fit: np.ndarray
    calibrate: np.ndarray
    test: np.ndarray
    strata: np.ndarray

    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the units of each set."""
        return self.fit, self.calibrate, self.test

    def whole(self) -> Parted:
        """The same sets with all units in one stratum, so that the corruption level may help."""
        return replace(self, strata=np.zeros_like(self.strata))


def part(observed: PerSample, strata: int, rng: np.random.Generator) -> Parted:
    """The sets drawn by `rng`; all corruptions of an item are in one. Levels fall into `strata` of equal frequency."""
    names = rng.permutation(np.unique(observed.item))
    ends = np.round(np.cumsum(SHARES) * len(names)).astype(int)[:2]
    fit, calibrate, test = (np.flatnonzero(np.isin(observed.item, of)) for of in np.split(names, ends))
    return Parted(
        fit, calibrate, test, selective.level_strata(observed.level, selective.level_edges(observed.level, strata))
    )


def score(observed: PerSample, parted: Parted, deepest: int) -> Rows:
    """Rows {loops, metric, value, higher_is_better, n_samples, signal, target, scope, stratum, reason}.

    At the exit after `deepest` loops all scores, at the others the AUROC alone. metric: those of `selective.scores`;
    `ece_…` and `brier_…` of the event after isotonic regression, of probes also before; `auroc_gain`, the AUROC
    within strata of the signal of a family that is best on the calibration items less that of the cheap baseline chosen
    likewise: for the error itself and, where it is known, for the model's own; and the curves of `risk_coverage`.
    Signals that are not defined at an exit are left out there; one that is not finite has a row that says so.
    """
    rows = [row for loops in observed.loops for row in _at_exit(observed, parted, loops, full=loops == deepest)]
    signals = {name: values[observed.at(deepest)] for name, values in observed.signals.items()}
    learned = _probes(observed, parted, deepest)
    signals |= learned
    rows += risk_coverage.rows(observed, parted.test, parted.strata, deepest, learned)
    rows += [
        row
        for name in signals
        if name.startswith("probe_")
        for row in _scored(observed, parted, deepest, name, signals[name])
    ]
    rows += _calibrations(observed, parted, deepest, signals)
    targets = [next(iter(observed.errors)), *({"model_error"} & set(observed.errors))]
    return rows + [row for target in targets for row in _gains(observed, parted, deepest, signals, target)]


def event(error: np.ndarray, parted: Parted) -> np.ndarray:
    """Whether each error (n,) is above the upper quartile that its stratum has among the fit units."""
    thresholds = selective.upper_quartiles(error[parted.fit], parted.strata[parted.fit])
    return selective.above(error, parted.strata, thresholds)


def _at_exit(observed: PerSample, parted: Parted, loops: int, full: bool) -> Rows:
    exit, rows = observed.at(loops), []
    for name, values in observed.signals.items():
        if np.isnan(values[exit]).all():  # not defined here, or not measured
            continue
        bad = np.flatnonzero(~np.isfinite(values[exit]))
        if len(bad):
            item, draw = observed.item[bad[0]], observed.draw[bad[0]]
            found = f"{values[exit, bad[0]]} at item {item}, draw {draw}"
            reason = f"{found}; not finite in {len(bad)} of {values.shape[1]}"
            rows.append({**_key(loops, name), "metric": "auroc", "value": None, "reason": reason})
            continue
        rows += _scored(observed, parted, loops, name, values[exit], full)
    return rows


def _scored(observed: PerSample, parted: Parted, loops: int, name: str, signal: np.ndarray, full: bool = True) -> Rows:
    """The scores of a signal (n,) on the test units: of the error itself, and at full length of what else is known."""
    exit, test, rows = observed.at(loops), parted.test, []
    primary = next(iter(observed.errors))
    for target in [primary, *(target for target in BESIDE if full and target in observed.errors)]:
        error = observed.errors[target][exit]
        metrics = ("auroc",) if not full else ("auroc", "spearman") if target != primary else tuple(selective.METRICS)
        whole = parted.whole()
        found = [
            row
            for pooled, sets in ((True, whole), (False, parted))
            for row in selective.scores(signal[test], error[test], event(error, sets)[test], sets.strata[test], metrics)
            if (row["scope"] == "pooled") == pooled
        ]
        for row in found:
            if row["scope"] != "stratum" or (full and target == primary and row["metric"] == "auroc"):
                stratum = None if row["stratum"] is None else f"level {row['stratum']}"
                rows.append({**row, **_key(loops, name), "target": target, "stratum": stratum})
    return rows


def _probes(observed: PerSample, parted: Parted, deepest: int) -> dict[str, np.ndarray]:
    """Learned signals (n,) from the signals of one pass at all exits up to the deepest."""
    exits = observed.at(deepest) + 1
    usable = {
        name: of[:exits] for name, of in observed.signals.items() if SIGNALS[name].one_pass and SIGNALS[name].may_stop
    }
    usable = {name: of for name, of in usable.items() if not nonfinite({name: of})}
    happened = event(observed.error[exits - 1], parted)[parted.fit]
    if not usable or not 0 < happened.sum() < len(happened):
        return {}
    known = {name: of[:, parted.fit] for name, of in usable.items()}
    return {f"probe_{kind}": Probe(known, happened, kind)(usable) for kind in PROBES}


def _calibrations(observed: PerSample, parted: Parted, deepest: int, signals: dict[str, np.ndarray]) -> Rows:
    error = observed.error[observed.at(deepest)]
    _, chosen, test = parted.parts()
    rows = []
    for scope, sets in (("pooled", parted.whole()), ("within", parted)):  # whose upper quartile is exceeded
        happened = event(error, sets)
        for name, signal in signals.items():
            if np.isfinite(signal).all():
                found = calibration.calibration(signal[test], happened[test], signal[chosen], happened[chosen])
                fitted = name.startswith("probe_") and scope == "within"  # no other is its probability
                rows += [
                    {**_key(deepest, name), "metric": metric, "value": value, "higher_is_better": False}
                    | {"n_samples": len(test), "scope": scope, "target": next(iter(observed.errors))}
                    for metric, value in found.items()
                    if metric.endswith("after") or fitted
                ]
    return rows


def of_tokens(tokens: PerSample, parted: Parted, deepest: int) -> Rows:
    """ECE and Brier score of 1 - max softmax as what it says it is, the probability that a hidden token is wrong."""
    exit = tokens.at(deepest)
    signal, wrong = tokens.signals["max_softmax"][exit], tokens.errors["error_rate"][exit] > 0
    _, chosen, test = parted.parts()
    found = calibration.calibration(signal[test], wrong[test], signal[chosen], wrong[chosen])
    return [
        {**_key(deepest, "max_softmax"), "metric": metric, "value": value, "higher_is_better": False}
        | {"n_samples": len(test), "scope": "tokens", "target": "error_rate"}
        for metric, value in found.items()
    ]


def _gains(observed: PerSample, parted: Parted, deepest: int, signals: dict[str, np.ndarray], target: str) -> Rows:
    """What the best signal of each family, each probe and the ensemble add to the best cheap baseline."""
    happened = event(observed.errors[target][observed.at(deepest)], parted)

    def within(name: str, units: np.ndarray) -> float:
        found = selective.scores(
            signals[name][units], happened[units].astype(float), happened[units], parted.strata[units], ("auroc",)
        )
        return next(row["value"] for row in found if row["scope"] == "within")

    def best(names: Iterable[str]) -> str | None:
        known = [name for name in names if name in signals and np.isfinite(signals[name]).all()]
        return max(known, key=lambda name: np.nan_to_num(within(name, parted.calibrate)), default=None)

    cheap = best(FAMILIES["cheap"])
    contenders = {family: best(FAMILIES[family]) for family in ("disagreement", "convergence")}
    contenders |= {name: best([name]) for name in signals if name.startswith("probe_")}
    sources = ("ensemble", "dropout", "unique_depth", "ponder", "unhalted")
    contenders |= {of: best(name for name in signals if name.startswith(of)) for of in sources}
    rows = []
    for family, name in contenders.items():
        if name is not None and cheap is not None:
            gain = within(name, parted.test) - within(cheap, parted.test)
            row = {"metric": "auroc_gain", "value": gain, "higher_is_better": True, "n_samples": len(parted.test)}
            about = {"scope": "within", "target": target, "reason": f"{name} over {cheap}"}
            rows.append({**_key(deepest, family), **row, **about})
    return rows


def _key(loops: int, signal: str) -> dict[str, Any]:
    return {"loops": loops, "split": "heldout", "signal": signal}
