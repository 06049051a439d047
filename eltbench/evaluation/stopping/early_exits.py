"""What stopping early costs and saves: quality–compute curves of every rule, and rules with a guarantee.

Items are the units. A rule's thresholds and the learned gate come from the fit items. A guarantee is calibrated on some
of the other items and its risk measured on the rest, many times over random halves, one random corruption an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eltbench.evaluation.signals import selective
from eltbench.evaluation.signals.per_sample import PerSample
from eltbench.evaluation.signals.probe import fit_gate
from eltbench.evaluation.signals.signal_scores import Parted
from eltbench.evaluation.signals.uncertainty import nonfinite
from eltbench.evaluation.stopping import guarantees
from eltbench.evaluation.stopping import rules as stopping

Rows = list[dict[str, Any]]
Splits = Sequence[Sequence[np.ndarray]]
"""Units to calibrate on and to test, of every split."""
Saved = dict[tuple[float, str], dict[str, float]]
"""What a fixed depth saves {metric: value}, by level and guarantee."""

SAVINGS = (0.25, 0.5)  # shares of the loops at which the rules are compared
CONFORMAL, LEARN_THEN_TEST = "conformal risk control", "learn then test"


def signals_of_rules(observed: PerSample, parted: Parted) -> dict[str, np.ndarray]:
    """The signal (E, n) of every rule that can be told here; the gate is fitted on the fit units."""
    seen = {name: of for name, of in observed.signals.items() if not nonfinite({name: of})}
    errors = observed.error[:, parted.fit]
    tolerance = 0.01 * float(errors[-1].mean())
    gate = fit_gate({name: of[:, parted.fit] for name, of in seen.items()}, errors, observed.loops, tolerance)
    seen |= {} if gate is None else {"not_ready": gate(seen, observed.loops)}
    seen["minus_loops"] = stopping.minus_loops(observed.loops, observed.error.shape[1])
    seen["excess_error"] = stopping.excess_error(observed.error)
    found = {name: seen[rule.signal] for name, rule in stopping.RULES.items() if rule.signal in seen}
    return {name: of for name, of in found.items() if np.isfinite(of[:-1]).any()}  # else it never stops early


def curves(observed: PerSample, parted: Parted, rules: dict[str, np.ndarray], points: int = 10) -> Rows:
    """Each rule on the test units at `points` thresholds, and what it costs where it saves given shares of the loops.

    Rows {loops, metric, value, rule, setting, threshold, loops_per_sample, loops_per_batch, saved, …}. metric:
    `excess_error`, above the deepest exit, by setting from never early (0) on; `excess_error_at_saving`, read off
    between them at the same mean loops a sample. In sampling order batches of 64 run until their last item stops.
    """
    rows = []
    for name, values in rules.items():
        known = _known(observed, name, parted.test)
        curve = _curve(observed, parted, name, values, parted.test, points)
        rows += [{**known, **point, "metric": "excess_error"} for point in curve]
        taken, cost = (np.array([point[of] for point in curve]) for of in ("loops_per_sample", "value"))
        order = np.argsort(taken)
        for saved in SAVINGS:
            wanted = (1 - saved) * observed.loops[-1]
            value = float(np.interp(wanted, taken[order], cost[order])) if taken.min() <= wanted else None
            reason = None if value is not None else "the rule never saves as much"
            metric = {"metric": "excess_error_at_saving", "value": value, "saved": saved, "reason": reason}
            rows.append({**known, **metric, "loops_per_sample": wanted})
    return rows


def by_level(
    observed: PerSample, parted: Parted, rules: dict[str, np.ndarray], levels: int = 4, points: int = 6
) -> Rows:
    """Each rule's curve on the test units of each of `levels` bands of corruption; none where all are corrupted alike.

    Rows {metric `excess_error_at_level`, stratum, noise (mean level of the band), setting, threshold, …}; a batch of 64
    is of one band, as a batch inside sampling is of one noise level.
    """
    level = observed.level[parted.test]
    band = selective.level_strata(level, selective.level_edges(level, levels))
    bands = {number: parted.test[band == number] for number in np.unique(band)}
    return [
        {**_known(observed, name, units), **point, "metric": "excess_error_at_level", "scope": "stratum"}
        | {"stratum": f"level {number} of {levels}", "noise": float(observed.level[units].mean())}
        for name, values in rules.items()
        for number, units in bands.items()
        if len(bands) > 1
        for point in _curve(observed, parted, name, values, units, points)
    ]


def _known(observed: PerSample, rule: str, units: np.ndarray) -> dict[str, Any]:
    known = {"loops": observed.loops[-1], "split": "heldout", "rule": rule, "n_samples": len(units)}
    return {**known, "higher_is_better": False, "target": observed.target}


def _curve(observed: PerSample, parted: Parted, rule: str, values: np.ndarray, units: np.ndarray, points: int) -> Rows:
    """Excess error and loops of a rule on these units, at thresholds from the fit units."""
    grid = stopping.thresholds(values[:, parted.fit], points).tolist()
    errors, hits = observed.error[:, units], stopping.get(rule).hits
    return [
        {"setting": setting, "threshold": point["threshold"] if setting else None, "value": point["excess_error"]}
        | {name: point[name] for name in ("loops_per_sample", "loops_per_batch")}  # a threshold of -∞ stops nothing
        for setting, point in enumerate(stopping.curve(values[:, units], errors, observed.loops, grid, hits=hits))
    ]


def guaranteed(
    observed: PerSample,
    parted: Parted,
    rules: dict[str, np.ndarray],
    levels: Sequence[float],
    delta: float,
    rng: np.random.Generator,
    splits: int = 200,
    points: int = 20,
) -> Rows:
    """Each rule under conformal risk control and learn-then-test at risk levels α, over random calibration sets.

    The loss is the excess over the deepest exit: of the error rate of hidden tokens, or of the x_0 error in units of
    its mean at the deepest exit over the fit units, gains counting nothing, cut at 1. The oracle has no guarantee. For
    rows see `guarantee_rows`. Raises ValueError where too few items are left for a level, with the number it takes.
    """
    rest = np.concatenate([parted.calibrate, parted.test])
    error, unit = losses_of(observed, parted)
    drawn: Splits = [guarantees.split(observed.item[rest], rng, (0.0, 0.5, 0.5))[1:] for _ in range(splits)]
    fixed: Saved = {}
    rows = []
    for name, values in rules.items():
        if name == "oracle":
            continue
        grid, hits = stopping.thresholds(values[:, parted.fit], points), stopping.get(name).hits
        stop = np.stack([stopping.stops(values[:, rest], limit, hits) for limit in grid])  # (K, n)
        loss = guarantees.excess_losses(error[:, rest], stop)
        for alpha in levels:
            for kind, limit in ((CONFORMAL, None), (LEARN_THEN_TEST, delta)):
                known = {"loops": observed.loops[-1], "split": "heldout", "rule": name, "guarantee": kind}
                known |= {"alpha": alpha, "delta": limit, "target": unit, "n_samples": len(drawn[0][1])}
                rows += guarantee_rows(known, loss, np.asarray(observed.loops)[stop], drawn, observed.loops[-1], fixed)
    return rows


def losses_of(observed: PerSample, parted: Parted) -> tuple[np.ndarray, str]:
    """Errors (E, n) in the units of the guaranteed risk, where 1 is the bound, and their name."""
    if "error_rate" in observed.errors:
        return observed.errors["error_rate"], "error_rate"
    return observed.error / observed.error[-1, parted.fit].mean(), "x0_error_over_its_mean"


def guarantee_rows(
    known: dict[str, Any], loss: np.ndarray, ran: np.ndarray, splits: Splits, deepest: int, fixed: Saved
) -> Rows:
    """What one rule under one guarantee risks and saves, as rows {**known, metric, value, higher_is_better}.

    known: `rule`, `guarantee`, `alpha`, `delta` and other columns. loss, ran: (K, n) and (K, …, n), losses and loops
    under each setting, the first never early. metric: `risk` (mean over the splits, on their test items), `violations`
    (share of the splits whose risk exceeds α), `loops_saved` a sample, `loops_saved_by_batch` of 64, and for all rules
    but `fixed` how much that is above what a fixed depth saves under the same guarantee and on the same splits
    (`…_over_fixed`). fixed: where the rule `fixed`, which comes first, leaves what it saves.
    """
    alpha, found = known["alpha"], []
    for calibrate, test in splits:
        losses = loss[:, calibrate]
        if known["guarantee"] == LEARN_THEN_TEST:
            accepted = guarantees.learn_then_test(losses, alpha, known["delta"])
        else:
            accepted = guarantees.conformal_risk_control(guarantees.running_worst(losses), alpha)
        setting = accepted.index or 0  # the safest one never stops early
        taken = ran[setting][..., test]
        found.append((loss[setting, test].mean(), taken.mean(), stopping.batched(taken).mean()))
    risk, by_sample, by_batch = np.array(found).T
    saved = {"loops_saved": 1 - by_sample.mean() / deepest, "loops_saved_by_batch": 1 - by_batch.mean() / deepest}
    measured = {"risk": risk.mean(), "violations": (risk > alpha).mean(), **saved}
    if known["rule"] == "fixed":
        fixed[alpha, known["guarantee"]] = saved
    elif beside := fixed.get((alpha, known["guarantee"])):
        measured |= {f"{metric}_over_fixed": value - beside[metric] for metric, value in saved.items()}
    return [
        {**known, "metric": metric, "value": float(value), "higher_is_better": metric.startswith("loops_saved")}
        for metric, value in measured.items()
    ]
