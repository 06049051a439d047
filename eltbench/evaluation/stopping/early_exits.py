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
from eltbench.evaluation.signals.probe import Gate
from eltbench.evaluation.signals.signal_scores import Parted
from eltbench.evaluation.signals.uncertainty import SIGNALS, nonfinite
from eltbench.evaluation.stopping import guarantees
from eltbench.evaluation.stopping import rules as stopping

Rows = list[dict[str, Any]]

SAVINGS = (0.25, 0.5)  # shares of the loops at which the rules are compared
UNGUARANTEED = ("oracle",)  # knows the error, so that there is nothing to guarantee


def signals_of_rules(observed: PerSample, parted: Parted) -> dict[str, np.ndarray]:
    """The signal (E, n) of every rule that can be told here; the gate is fitted on the fit units."""
    found = {}
    for name, rule in stopping.RULES.items():
        if rule.signal == "minus_loops":
            found[name] = stopping.minus_loops(observed.loops, observed.error.shape[1])
        elif rule.signal == "excess_error":
            found[name] = stopping.excess_error(observed.error)
        elif rule.signal == "not_ready":
            gate = _gate(observed, parted)
            found |= {} if gate is None else {name: gate}
        elif rule.signal in observed.signals and not nonfinite({rule.signal: observed.signals[rule.signal]}):
            found[name] = observed.signals[rule.signal]
    return {
        name: values for name, values in found.items() if np.isfinite(values[:-1]).any()
    }  # else it never stops early


def curves(observed: PerSample, parted: Parted, rules: dict[str, np.ndarray], points: int = 10) -> Rows:
    """Each rule on the test units at `points` thresholds, and what it costs where it saves given shares of the loops.

    Rows {loops, metric, value, rule, setting, threshold, loops_per_sample, loops_per_batch, saved, …}. metric:
    `excess_error`, above the deepest exit, by setting from never early (0) on; `excess_error_at_saving`, read off
    between them at the same mean loops a sample. In sampling order batches of 64 run until their last item stops.
    """
    deepest, rows = observed.loops[-1], []
    error = observed.error[:, parted.test]
    for name, values in rules.items():
        rule = stopping.get(name)
        grid = stopping.thresholds(values[:, parted.fit], points).tolist()
        points_of_rule = stopping.curve(values[:, parted.test], error, observed.loops, grid, hits=rule.hits)
        known = {"loops": deepest, "split": "heldout", "rule": name, "n_samples": len(parted.test)}
        known |= {"higher_is_better": False, "target": next(iter(observed.errors))}
        for setting, point in enumerate(points_of_rule):
            at = {"setting": setting, "threshold": point["threshold"] if setting else None}  # -∞ stops nothing
            at |= {key: point[key] for key in ("loops_per_sample", "loops_per_batch")}
            rows.append({**known, **at, "metric": "excess_error", "value": point["excess_error"]})
        taken = np.array([point["loops_per_sample"] for point in points_of_rule])
        cost = np.array([point["excess_error"] for point in points_of_rule])
        order = np.argsort(taken)
        for saved in SAVINGS:
            wanted = (1 - saved) * deepest
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
    level, error = observed.level[parted.test], observed.error[:, parted.test]
    band = selective.level_strata(level, selective.level_edges(level, levels))
    rows: Rows = []
    for name, values in rules.items():
        grid = stopping.thresholds(values[:, parted.fit], points).tolist()
        for number in np.unique(band) if len(np.unique(band)) > 1 else ():
            here = band == number
            curve = stopping.curve(
                values[:, parted.test][:, here], error[:, here], observed.loops, grid, hits=stopping.get(name).hits
            )
            known = {"loops": observed.loops[-1], "split": "heldout", "rule": name, "n_samples": int(here.sum())}
            known |= {"higher_is_better": False, "target": next(iter(observed.errors)), "scope": "stratum"}
            known |= {"stratum": f"level {number} of {levels}", "noise": float(level[here].mean())}
            for setting, point in enumerate(curve):
                at = {"setting": setting, "threshold": point["threshold"] if setting else None}
                at |= {key: point[key] for key in ("loops_per_sample", "loops_per_batch")}
                rows.append({**known, **at, "metric": "excess_error_at_level", "value": point["excess_error"]})
    return rows


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
    its mean at the deepest exit over the fit units, gains counting nothing, cut at 1. Rows {metric, value, rule,
    guarantee, alpha, delta, …} with metric `risk` (mean over the splits, on their test items), `violations` (share of
    the splits whose risk exceeds α), `loops_saved` a sample, `loops_saved_by_batch`, and for all rules but `fixed` how
    much that is above what a fixed depth saves under the same guarantee and on the same splits
    (`loops_saved_over_fixed`, `loops_saved_by_batch_over_fixed`). Raises ValueError where too few items are left for a
    level, with the number it takes.
    """
    rest = np.concatenate([parted.calibrate, parted.test])
    error, unit = losses_of(observed, parted)
    deepest, sets = observed.loops[-1], [_two_sets(observed.item[rest], rng) for _ in range(splits)]
    depth = np.asarray(observed.loops)
    fixed: dict[tuple[float, str, str], float] = {}  # what a fixed depth saves, by level, guarantee and metric
    rows = []
    for name, values in rules.items():
        if name in UNGUARANTEED:
            continue
        grid = stopping.thresholds(values[:, parted.fit], points)
        stop = np.stack([stopping.stops(values[:, rest], limit, stopping.get(name).hits) for limit in grid])  # (K, n)
        loss = guarantees.excess_losses(error[:, rest], stop)
        ran = depth[stop]
        for alpha in levels:
            for kind in ("conformal risk control", "learn then test"):
                outcome = np.array([_once(kind, loss, ran, *both, alpha, delta) for both in sets])
                risk, by_sample, by_batch = outcome.T
                saved = {"loops_saved": by_sample.mean(), "loops_saved_by_batch": by_batch.mean()}
                saved = {metric: 1 - taken / deepest for metric, taken in saved.items()}
                found = {"risk": risk.mean(), "violations": (risk > alpha).mean(), **saved}
                if name == "fixed":
                    fixed |= {(alpha, kind, metric): value for metric, value in saved.items()}
                elif "fixed" in rules:
                    found |= {f"{metric}_over_fixed": of - fixed[alpha, kind, metric] for metric, of in saved.items()}
                known = {"loops": deepest, "split": "heldout", "rule": name, "guarantee": kind, "alpha": alpha}
                known |= {"target": unit}
                known |= {"delta": delta if kind == "learn then test" else None, "n_samples": len(sets[0][1])}
                rows += [
                    {**known, "metric": of, "value": float(value), "higher_is_better": of.startswith("loops_saved")}
                    for of, value in found.items()
                ]
    return rows


def losses_of(observed: PerSample, parted: Parted) -> tuple[np.ndarray, str]:
    """Errors (E, n) in the units of the guaranteed risk, where 1 is the bound, and their name."""
    if "error_rate" in observed.errors:
        return observed.errors["error_rate"], "error_rate"
    return observed.error / observed.error[-1, parted.fit].mean(), "x0_error_over_its_mean"


def _once(
    kind: str, loss: np.ndarray, ran: np.ndarray, calibrate: np.ndarray, test: np.ndarray, alpha: float, delta: float
) -> tuple[float, float, float]:
    """Calibrate on some units and measure on others: risk, loops a sample, and loops a sample of batches of 64."""
    if kind == "learn then test":
        index = guarantees.learn_then_test(loss[:, calibrate], alpha, delta).index
    else:
        index = guarantees.conformal_risk_control(guarantees.running_worst(loss[:, calibrate]), alpha).index
    chosen = 0 if index is None else index  # the safest setting never stops early
    taken = ran[chosen, test]
    whole = np.array([taken[start : start + 64].max() for start in range(0, len(taken), 64)])
    sizes = np.minimum(64, len(taken) - 64 * np.arange(len(whole)))
    return float(loss[chosen, test].mean()), float(taken.mean()), float(np.average(whole, weights=sizes))


def _two_sets(items: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Units to calibrate and to test: half of the items each, one random corruption of each item."""
    _, calibrate, test = guarantees.split(items, rng, (0.0, 0.5, 0.5))
    return calibrate, test


def _gate(observed: PerSample, parted: Parted) -> np.ndarray | None:
    """The learned gate's signal (E, n); None where the fit units leave it nothing to learn."""
    usable = {
        name: values
        for name, values in observed.signals.items()
        if SIGNALS[name].may_stop and not nonfinite({name: values})
    }
    tolerance = 0.01 * float(observed.error[-1, parted.fit].mean())
    known, errors = {name: of[:, parted.fit] for name, of in usable.items()}, observed.error[:, parted.fit]
    late = errors[:-1] - errors[-1] > tolerance
    if not usable or not 0 < late.sum() < late.size:
        return None
    return Gate(known, errors, observed.loops, tolerance=tolerance)(usable, observed.loops)
