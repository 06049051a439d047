"""Which signals know where a model is wrong: every signal scored on test items, families against cheap baselines.

Three disjoint sets of items, the same for every model of a world: on the first the event is stated (an error above the
upper quartile of its stratum, or of all for pooled scores) and probes are fitted; on the second signals are chosen and
calibrated; all scores are of the third.
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

OF_PROBES = frozenset(name for name, one in SIGNALS.items() if one.one_pass and one.may_stop)
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
    learned = _probes(observed, parted, deepest)
    signals = {name: values[observed.at(deepest)] for name, values in observed.signals.items()} | learned
    rows += risk_coverage.rows(observed, parted.test, parted.strata, deepest, learned)
    rows += [row for name, signal in learned.items() for row in _scored(observed, parted, deepest, name, signal)]
    rows += _calibrations(observed, parted, deepest, signals)
    targets = [observed.target, *({"model_error"} & set(observed.errors))]
    return rows + [row for target in targets for row in _gains(observed, parted, deepest, signals, target)]


def event(error: np.ndarray, parted: Parted) -> np.ndarray:
    """Whether each error (n,) is above the upper quartile that its stratum has among the fit units."""
    thresholds = selective.upper_quartiles(error[parted.fit], parted.strata[parted.fit])
    return selective.above(error, parted.strata, thresholds)


def _at_exit(observed: PerSample, parted: Parted, loops: int, full: bool) -> Rows:
    rows: Rows = []
    for name, values in observed.signals.items():
        signal = values[observed.at(loops)]
        if np.isnan(signal).all():  # not defined here, or not measured
            continue
        if len(bad := np.flatnonzero(~np.isfinite(signal))):
            found = f"{signal[bad[0]]} at item {observed.item[bad[0]]}, draw {observed.draw[bad[0]]}"
            reason = f"{found}; not finite in {len(bad)} of {len(signal)}"
            rows.append({**_key(loops, name), "metric": "auroc", "value": None, "reason": reason})
        else:
            rows += _scored(observed, parted, loops, name, signal, full)
    return rows


def _scored(observed: PerSample, parted: Parted, loops: int, name: str, signal: np.ndarray, full: bool = True) -> Rows:
    """The scores of a signal (n,) on the test units: of the error itself, and at full length of what else is known."""
    test, rows = parted.test, []
    for target in [observed.target, *(target for target in BESIDE if full and target in observed.errors)]:
        primary, error = target == observed.target, observed.errors[target][observed.at(loops)]
        metrics = ("auroc",) if not full else tuple(selective.METRICS) if primary else ("auroc", "spearman")
        for pooled, sets in ((True, parted.whole()), (False, parted)):
            happened = event(error, sets)[test]
            for row in selective.scores(signal[test], error[test], happened, sets.strata[test], metrics):
                by_stratum = row["scope"] == "stratum"
                wanted = not by_stratum or (full and primary and row["metric"] == "auroc")
                if (row["scope"] == "pooled") == pooled and wanted:
                    stratum = f"level {row['stratum']}" if by_stratum else None
                    rows.append({**row, **_key(loops, name), "target": target, "stratum": stratum})
    return rows


def _probes(observed: PerSample, parted: Parted, deepest: int) -> dict[str, np.ndarray]:
    """Learned signals (n,) from the signals of one pass at all exits up to the deepest."""
    exits = observed.at(deepest) + 1
    seen = {name: of[:exits] for name, of in observed.signals.items() if name in OF_PROBES}
    usable = {name: of for name, of in seen.items() if not nonfinite({name: of})}
    happened = event(observed.error[exits - 1], parted)[parted.fit]
    if not usable or not 0 < happened.sum() < len(happened):
        return {}
    known = {name: of[:, parted.fit] for name, of in usable.items()}
    return {f"probe_{kind}": Probe(known, happened, kind)(usable) for kind in PROBES}


def _calibrations(observed: PerSample, parted: Parted, deepest: int, signals: dict[str, np.ndarray]) -> Rows:
    """Of finite signals after isotonic regression; of probes within strata, whose probability it is, also before."""
    rows: Rows = []
    for scope, sets in (("pooled", parted.whole()), ("within", parted)):  # whose upper quartile is exceeded
        happened = event(observed.error[observed.at(deepest)], sets)
        for name, signal in signals.items():
            if np.isfinite(signal).all():
                known = {**_key(deepest, name), "scope": scope, "target": observed.target}
                fitted = name.startswith("probe_") and scope == "within"
                found = _calibrated(signal, happened, parted, known)
                rows += [row for row in found if fitted or row["metric"].endswith("after")]
    return rows


def of_tokens(tokens: PerSample, parted: Parted, deepest: int) -> Rows:
    """ECE and Brier score of 1 - max softmax as what it says it is, the probability that a hidden token is wrong."""
    signal, wrong = (of[tokens.at(deepest)] for of in (tokens.signals["max_softmax"], tokens.errors["error_rate"]))
    known = {**_key(deepest, "max_softmax"), "scope": "tokens", "target": "error_rate"}
    return _calibrated(signal, wrong > 0, parted, known)


def _calibrated(signal: np.ndarray, happened: np.ndarray, parted: Parted, known: dict[str, Any]) -> Rows:
    test, chosen = parted.test, parted.calibrate
    found = calibration.calibration(signal[test], happened[test], signal[chosen], happened[chosen])
    known = {**known, "higher_is_better": False, "n_samples": len(test)}
    return [{**known, "metric": metric, "value": value} for metric, value in found.items()]


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
    sources = ("ensemble", "dropout", "unique_depth", "ponder", "unhalted", "minus_halting")
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
