"""Stopping inside sampling: what every rule runs at each step, how far that leads from all loops, and a guarantee.

Thresholds, and the learned gate, come from what full-loop trajectories saw of the first half of the samples; guarantees
are calibrated and tested on the others, in random halves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eltbench.evaluation.signals.probe import Gate
from eltbench.evaluation.signals.uncertainty import SIGNALS, nonfinite
from eltbench.evaluation.stopping import guarantees
from eltbench.evaluation.stopping import rules as stopping
from eltbench.evaluation.stopping.generation import Generated, distance, generate, sample_errors
from eltbench.evidence.intervals import NonFiniteError
from eltbench.training.model import Model

Rows = list[dict[str, Any]]
Run = tuple[float, Generated]
"""A threshold and the samples that were drawn under it."""

QUANTILES = (1 / 3, 2 / 3, 1.0)  # of a signal's values, which are its thresholds; besides, it may never stop early
BOUND = 1.0  # of the distance to the full-loop sample, beyond which it counts as that
DIVERGENCES = ("kl_to_deepest", "squared_change_to_deepest")  # which the gate learns to foresee
DISTANCE, DISTANCE_AT_STEP = "distance_to_full_loops", "distance_to_full_loops_at_step"


def score(
    model: Model,
    full: Generated,
    errors: Mapping[str, np.ndarray],
    labels: np.ndarray,
    exits: Sequence[int],
    asked: Mapping[str, Any],
    levels: Sequence[float],
    delta: float,
    splits: int,
    rng: np.random.Generator,
) -> Rows:
    """Rows of all rules that can be told while sampling, held against the full-loop samples under the same noise.

    errors: of the full-loop samples, {target: (n,)}. asked: the seed and sampler's options of `generate`. metric:
    `distance_to_full_loops` by setting, and `sample_error` by what the outside judges look at;
    `distance_to_full_loops_at_step` of the states after each `sampling_step`, with the loops run there and the `noise`
    that the step began with; `risk`, `violations`, `loops_saved`, `loops_saved_by_batch` and both above the fixed
    rule's (`…_over_fixed`) of learn-then-test. A rule or a level that cannot be tried has a row that says why.
    """
    rows: Rows = []
    fixed: dict[tuple[float, str], float] = {}
    rest = np.arange(len(labels) // 2, len(labels))
    drawn = [np.array_split(rng.permutation(rest), 2) for _ in range(splits)]
    for rule in stopping.RULES:
        gate = _gate(full, exits) if rule == "learned-gate" else None
        values = _values(rule, gate, full, exits)
        if values is None:
            continue
        if not _can_stop(values, stopping.get(rule).hits):
            reason = "it is not defined at as many exits before the last as it wants hits"
            rows.append({"metric": DISTANCE, "value": None, "rule": rule, "reason": reason})
            continue
        seen = values[:-1][np.isfinite(values[:-1])]  # at the last exit everything stops anyhow
        limits = np.unique(seen if rule == "fixed" else np.quantile(seen, QUANTILES, method="lower")).tolist()
        try:
            further = [generate(model, labels, exits, rule=rule, threshold=at, gate=gate, **asked) for at in limits]
        except NonFiniteError as error:  # of what the gate reads; other rules do not stop by what is no number
            rows.append({"metric": DISTANCE, "value": None, "rule": rule, "reason": str(error)})
            continue
        runs: list[Run] = [(-np.inf, full), *zip(limits, further, strict=True)]
        rows += _curve(rule, runs, full, [errors, *_judged(model, further, labels)])
        rows += _guaranteed(rule, runs, full, levels, delta, drawn, fixed)
    return rows


def _judged(model: Model, runs: Sequence[Generated], labels: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The errors of the samples of each run, {target: (n,)}, judged together."""
    together = sample_errors(model, np.concatenate([run.samples for run in runs]), np.tile(labels, len(runs)))
    apart = {target: np.split(error, len(runs)) for target, error in together.items()}
    return [{target: parts[place] for target, parts in apart.items()} for place in range(len(runs))]


def _values(rule: str, gate: Gate | None, full: Generated, exits: Sequence[int]) -> np.ndarray | None:
    """The rule's signal on full-loop trajectories of the first half (E, steps · n/2); None where it has none here."""
    signal, half = stopping.get(rule).signal, full.loops.shape[1] // 2
    if signal == "minus_loops":
        return stopping.minus_loops(exits, 1)
    if gate is not None:
        return gate({name: _flat(full.signals[name][:, :, :half]) for name in gate.names}, exits)
    return _flat(full.signals[signal][:, :, :half]) if signal in full.signals else None


def _gate(full: Generated, exits: Sequence[int]) -> Gate | None:
    """A gate that foresees whether an exit's prediction is farther from the deepest one's than half of all are."""
    half = full.loops.shape[1] // 2
    seen = {name: _flat(values[:, :, :half]) for name, values in full.signals.items()}
    usable = {name: of for name, of in seen.items() if SIGNALS[name].may_stop and not nonfinite({name: of})}
    away = next(seen[name] for name in DIVERGENCES if name in seen)
    tolerance = float(np.median(away[:-1]))
    late = away[:-1] - away[-1] > tolerance
    if not usable or not np.isfinite(away).all() or not 0 < late.sum() < late.size:
        return None
    return Gate(usable, away, exits, tolerance=tolerance)


def _can_stop(values: np.ndarray, hits: int) -> bool:
    return bool(np.isfinite(values[:-1]).any(axis=1).sum() >= hits)


def _flat(values: np.ndarray) -> np.ndarray:
    """Values (steps, E, n) as those of all steps beside each other (E, steps · n)."""
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def _curve(rule: str, runs: Sequence[Run], full: Generated, judged: Sequence[Mapping[str, np.ndarray]]) -> Rows:
    rows: Rows = []
    for setting, (limit, run) in enumerate(runs):
        known = {"rule": rule, "setting": setting, "threshold": limit if setting else None, "higher_is_better": False}
        whole = batched(run.loops)
        ran = {"loops_per_sample": float(run.loops.mean()), "loops_per_batch": float(whole.mean())}
        away = float(distance(run.samples, full.samples).mean())
        rows.append({**known, **ran, "metric": DISTANCE, "value": away})
        rows += [
            {**known, **ran, "metric": "sample_error", "value": float(error.mean()), "target": target}
            for target, error in judged[setting].items()
        ]
        for step, (state, aim) in enumerate(zip(run.path, full.path, strict=True)):
            ran = {"loops_per_sample": float(run.loops[step].mean()), "loops_per_batch": float(whole[step].mean())}
            at = {"sampling_step": step + 1, "noise": float(run.noise[step])}
            rows.append({**known, **ran, **at, "metric": DISTANCE_AT_STEP, "value": float(distance(state, aim).mean())})
    return rows


def _guaranteed(
    rule: str,
    runs: Sequence[Run],
    full: Generated,
    levels: Sequence[float],
    delta: float,
    drawn: Sequence[Sequence[np.ndarray]],
    fixed: dict[tuple[float, str], float],
) -> Rows:
    """Learn-then-test of the distance to the full-loop sample, calibrated on trajectories that ran under the rule.

    drawn: samples to calibrate on and to test, of every split, the same for all rules. fixed: what the fixed rule saved
    by level and metric, which it leaves here for the others.
    """
    loss = np.stack([np.minimum(distance(run.samples, full.samples), BOUND) for _, run in runs])  # (K, n)
    ran = np.stack([run.loops for _, run in runs])  # (K, steps, n)
    deepest = float(full.loops.max())
    rows: Rows = []
    for alpha in levels:
        known = {"rule": rule, "guarantee": "learn then test", "alpha": alpha, "delta": delta, "target": DISTANCE}
        fewest = guarantees.smallest_learn_then_test(alpha, delta, BOUND)
        if (left := min(len(calibrate) for calibrate, _ in drawn)) < fewest:
            reason = f"{left} samples calibrate; it takes {fewest}"
            rows.append({**known, "metric": "loops_saved", "value": None, "higher_is_better": True, "reason": reason})
            continue
        found = []
        for calibrate, test in drawn:
            index = guarantees.learn_then_test(loss[:, calibrate], alpha, delta, BOUND).index or 0
            took = ran[index][:, test]
            found.append((loss[index, test].mean(), took.mean(), batched(took).mean()))
        risk, by_sample, by_batch = np.array(found).T
        saved = {"loops_saved": 1 - by_sample.mean() / deepest, "loops_saved_by_batch": 1 - by_batch.mean() / deepest}
        measured = {"risk": risk.mean(), "violations": (risk > alpha).mean(), **saved}
        if rule == "fixed":
            fixed |= {(alpha, metric): value for metric, value in saved.items()}
        else:
            measured |= {f"{metric}_over_fixed": value - fixed[alpha, metric] for metric, value in saved.items()}
        rows += [
            {**known, "metric": metric, "value": float(value), "higher_is_better": metric.startswith("loops_saved")}
            for metric, value in measured.items()
        ]
    return rows


def batched(loops: np.ndarray, batch: int = 64) -> np.ndarray:
    """Loops (steps, n) where a batch, taken in order, goes on at every step until its last item stops."""
    whole = [loops[:, start : start + batch] for start in range(0, loops.shape[1], batch)]
    return np.concatenate([np.broadcast_to(part.max(axis=1, keepdims=True), part.shape) for part in whole], axis=1)
